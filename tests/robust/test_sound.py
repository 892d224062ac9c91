"""Sound certificates: exact rational outputs and float32 outputs stay inside, faults are caught."""

import math
from fractions import Fraction
from itertools import count

import exact_nets
import mpmath
import numpy as np
import pytest
import small_baselines
import torch
from threads import one_thread
from torch import Tensor, nn

from linfdist.data import to_pixels
from linfdist.nn import LinfDistNet, NetConfig, build_net
from linfdist.ops.precision import matmul_precision
from linfdist.robust import (
    interval_certified,
    interval_radius,
    sound,
    sound_certificates,
    sound_certified,
    sound_radius,
)
from linfdist.robust.certificates import pixel_box

KINDS = {
    "net": lambda rng: NetConfig(kind="net", hidden=widths(rng), identity_value=identity(rng)),
    "net_mlp": lambda rng: NetConfig(
        kind="net_mlp", hidden=widths(rng), identity_value=identity(rng), mlp_hidden=draw(rng, 1, 6)
    ),
    "conv_net_mlp": lambda rng: NetConfig(
        kind="conv_net_mlp",
        hidden=(draw(rng, 1, 4),),
        identity_value=identity(rng),
        mlp_hidden=draw(rng, 1, 4),
        channels=((draw(rng, 1, 3), draw(rng, 1, 2)),),
    ),
}
EPS = (Fraction(8, 255), Fraction(3, 10), Fraction(1, 10), Fraction(0), Fraction(1, 7777))


def draw(rng, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def widths(rng) -> tuple[int, ...]:
    return tuple(draw(rng, 1, 5) for _ in range(draw(rng, 1, 3)))


def identity(rng) -> float | None:
    return -10.0 if rng.random() < 0.5 else None


def random_net(kind: str, seed: int) -> nn.Module:
    """Odd sizes; weights, running means and biases of all magnitudes."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    shape = (draw(rng, 1, 2), draw(rng, 1, 3), draw(rng, 1, 3))
    net = build_net(
        KINDS[kind](rng),
        input_shape=shape,
        num_classes=draw(rng, 2, 4),
        mean=rng.uniform(0, 1, shape[0]).tolist(),
        std=float(rng.uniform(0.1, 1)),
    )
    for name, value in net.state_dict().items():
        if "running_mean" in name or "bias" in name:
            value.normal_()
        if rng.random() < 0.3:
            value.mul_(10.0 ** rng.uniform(-4, 3))
    return net.eval().requires_grad_(False)


def random_images(net: nn.Module, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(-40, 296, (n, *net.input_shape), generator=generator)
    return images.clamp(0, 255).to(torch.uint8)


def worst_corners(net: nn.Module, images: Tensor) -> Tensor:
    """Signs that raise logit_k − logit_0 at first order, one set of them for each k."""
    pixels = to_pixels(images).requires_grad_()
    logits = net(pixels)
    signs = []
    for k in range(1, net.num_classes):
        (gradient,) = torch.autograd.grad(
            (logits[:, k] - logits[:, 0]).sum(), pixels, retain_graph=True
        )
        signs.append(gradient.sign())
    return torch.stack(signs)


def perturbed(
    net: nn.Module, image: Tensor, eps: Fraction, rng, corners: Tensor
) -> list[np.ndarray]:
    """Exact images of the ball: two random ones, a random corner, and the adversarial corners."""
    lower, upper = exact_nets.ball(image.numpy(), exact_nets.fractions(to_pixels(image)), eps)
    shape = image.shape
    found = []
    for _ in range(2):
        shares = rng.integers(0, 8, shape)
        found.append(lower + (upper - lower) * np.vectorize(Fraction, [object])(shares, 7))
    found.append(np.where(rng.random(shape) < 0.5, lower, upper))
    found += [np.where(sign.numpy() > 0, upper, lower) for sign in corners]
    return found


def violations(net: nn.Module, images: Tensor, eps: Fraction, rng) -> int:
    """Perturbed images, exact and in float32, whose features or margins leave their bounds."""
    box = sound.sound_pixel_box(images, sound.upward(eps, images, "test"))
    labels = torch.arange(len(images)) % net.num_classes
    bounds = sound.sound_features(net.features, *box)
    margins = sound.sound_margins_on_box(net, *box, labels)
    corners = worst_corners(net, images)
    points = [perturbed(net, image, eps, rng, corners[:, i]) for i, image in enumerate(images)]
    each = len(points[0])
    points = np.array([point for of_one in points for point in of_one])
    real = exact_nets.features(net, points)
    logits = exact_nets.logits(net, real)
    wide = [end.double().repeat_interleave(each, 0).numpy().astype(object) for end in bounds]
    own = np.take_along_axis(logits, labels.repeat_interleave(each)[:, None].numpy(), 1)
    most = margins.double().repeat_interleave(each, 0).numpy().astype(object)
    held = (wide[0] <= real).all(1) & (real <= wide[1]).all(1) & (logits - own <= most).all(1)
    outside = int((~held.astype(bool)).sum())
    # In float32: the images next to those points, as far as the box has them; and the image.
    rows = torch.arange(len(images)).repeat_interleave(each)
    single = torch.from_numpy(points.astype(np.float32)).clamp(box[0][rows], box[1][rows])
    single, rows = (
        torch.cat((single, to_pixels(images))),
        torch.cat((rows, torch.arange(len(images)))),
    )
    found, logits = net.features(single), net(single).double()
    held = (found >= bounds[0][rows]).all(1) & (found <= bounds[1][rows]).all(1)
    held &= (logits - logits.gather(1, labels[rows, None]) <= margins[rows]).all(1)
    return outside + int((~held).sum())


@pytest.mark.parametrize(("kind", "nets"), [("net", 300), ("net_mlp", 300), ("conv_net_mlp", 150)])
def test_exact_outputs_of_perturbed_images_stay_inside(kind, nets):
    with one_thread():
        for seed in range(nets):
            net, rng = random_net(kind, seed), np.random.default_rng(seed)
            images = random_images(net, 2, seed)
            assert violations(net, images, EPS[seed % len(EPS)], rng) == 0, seed


# --- planted faults ---------------------------------------------------------------------------

OPERATIONS = ("mean", "std", "dist", "shift", "last dist", "bias", "margin")


CORNER = 0.1  # where the end of the pixel's interval lies that is looked at


def revealing_net(operation: str, end: int, seed: int) -> LinfDistNet:
    """One pixel, one hidden neuron, two classes whose distances move in opposite directions.

    What one operation gives is large, and the next one takes it away again, so that its rounding is
    large beside all the steps that follow. Where those before or after are of its size, the numbers
    are such that they hide the rounding as little as can be.
    """
    rng = np.random.default_rng(seed)
    big, (small, shift, offset) = rng.uniform(50, 100), rng.uniform(0.3, 1, 3)
    mean, std = -small, rng.uniform(0.6, 0.9)
    if operation == "mean":
        mean, std = CORNER - rng.uniform(32.2, 32.6), rng.uniform(0.51, 0.52)
    if operation == "std":
        mean, std = CORNER - rng.uniform(1.985, 1.999), 1.98 / 128
    config = NetConfig(kind="net", hidden=(1,))
    shape = {"input_shape": (1, 1, 1), "num_classes": 2}
    net = build_net(config, **shape, mean=(float(mean),), std=float(std))
    net.eval().requires_grad_(False)
    _, hidden, mean_shift = net.features.layers
    beside = big if operation == "dist" else 0.3 if end else -0.3
    hidden.weight.fill_((CORNER - mean) / std + beside)
    mean_shift.running_mean.fill_({"dist": big, "shift": -big}.get(operation, shift))
    value = net.features(torch.full((1, 1, 1, 1), CORNER)).item()
    far = big if operation == "last dist" else 0
    net.last.weight.copy_(torch.tensor([[value - offset], [value + offset + far]]))
    biases = {"bias": (63.5 - offset, 64.5 - offset), "margin": (126 - offset, -7 - offset)}
    biases = torch.tensor(biases.get(operation, (shift, shift - far)))
    net.last.bias.copy_(biases + 0.01 * small)
    return net


@pytest.mark.parametrize(
    ("operation", "end"), [(o, end) for o in OPERATIONS for end in (0, 1)][:-1], ids=str
)
def test_one_missing_step_is_caught(operation, end, monkeypatch):
    """Of the bounds of features, if it is one of theirs, and of those of the margins."""
    missing = 2 * OPERATIONS.index(operation) + end
    skipped = {2 + missing} & {*range(10)} | {10 + missing}  # the pixel box takes two, features 8
    monkeypatch.setattr(sound, "ball", exact_ends)
    assert not revealed(operation, end, monkeypatch, (), nets=20)
    assert revealed(operation, end, monkeypatch, skipped, nets=400)


def revealed(operation: str, end: int, monkeypatch, skipped, nets: int) -> bool:
    """Whether bounds without the skipped steps are violated by one of so many nets."""
    # Two images, for both labels, whose interval ends at the corner; 0 leaves nothing to round.
    image = torch.full((2, 1, 1, 1), 0 if end else 51, dtype=torch.uint8)
    for seed in range(nets):
        net, rng = revealing_net(operation, end, seed), np.random.default_rng(seed)
        with monkeypatch.context() as patch:
            patch.setattr(sound, "_step", without(lambda call: call in skipped))
            if violations(net, image, Fraction(1, 10) + Fraction(seed + 1, 10**6 + 7), rng):
                return True
    return False


def without(skips):
    """The step of ``outward``, but for the calls for which ``skips`` holds."""
    step, calls = sound._step, count()
    return lambda x, towards: x if skips(next(calls)) else step(x, towards)


def exact_ends(levels: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """``ball`` without its own steps: here they would only blur what is looked for."""
    nearest = levels.double() / 255
    return (nearest - eps).clamp(0, 1), (nearest + eps).clamp(0, 1)


def ball_violations(eps_of_level) -> int:
    """Levels whose ball leaves its bounds, in float64 or in float32, as eps comes close to them."""
    levels, outside = torch.arange(256, dtype=torch.uint8), 0
    given = exact_nets.fractions(to_pixels(levels))
    for k in range(0, 256, 15):
        for eps in (Fraction(k, 255) + Fraction(1, 10**7 + k), Fraction(max(k, 8) - 1, 271)):
            exact = exact_nets.ball(levels.numpy(), given, eps)
            bound = eps_of_level(eps)
            image = levels.view(1, 1, 16, 16)
            ends = sound.ball(levels, bound), sound.sound_pixel_box(image, bound)
            for lower, upper in ends:
                low, high = (exact_nets.fractions(end.flatten()) for end in (lower, upper))
                outside += int(((low > exact[0]) | (high < exact[1])).sum())
    return outside


def up(eps: Fraction) -> Tensor:
    return sound.upward(eps, torch.empty(0), "test")


def test_the_ball_lies_within_its_bounds():
    assert ball_violations(up) == 0


@pytest.mark.parametrize("missing", [0, 3, 4, 5])
def test_one_missing_step_of_the_ball_is_caught(missing, monkeypatch):
    """Steps 1 and 2 follow the rule but are not needed: 3 and 0 cover both roundings of an end."""
    # Of ten: four of ball alone, the same and two of float32 in sound_pixel_box.
    skipped = (missing, missing + 4) if missing < 4 else (missing + 4,)
    monkeypatch.setattr(sound, "_step", without(lambda call: call % 10 in skipped))
    assert ball_violations(up) > 0


@pytest.mark.parametrize(
    "rounded",
    [
        lambda eps: torch.tensor(math.nextafter(float(eps), 0.0), dtype=torch.float64),
        lambda eps: torch.tensor(float(eps), dtype=torch.float32).double(),
        lambda eps: torch.tensor(math.floor(eps * 10**5) / 1e5, dtype=torch.float64),
    ],
    ids=["a step of float64", "float32", "0.03137"],
)
def test_a_rounded_eps_is_caught(rounded):
    assert ball_violations(rounded) > 0


def test_eps_is_rounded_up_to_float64():
    for k in range(1, 1000):
        found = up(Fraction(k, 255)).item()
        assert math.nextafter(found, 0) < Fraction(k, 255) <= found
    assert up(Fraction(1, 4)).item() == 0.25 and up(0.1).item() == 0.1


@pytest.mark.parametrize("fault", ["UNIT_32", "TANH_ERROR"])
def test_a_head_without_its_slack_is_caught(fault, monkeypatch):
    """Where nothing but float32's own rounding counts: eps 0 and large weights."""
    bad = {}
    for planted in (False, True):
        if planted:
            monkeypatch.setattr(sound, fault, 0.0)
        bad[planted] = sum(head_violations(seed) for seed in range(40))
    assert bad[False] == 0 < bad[True]


def head_violations(seed: int) -> int:
    """Of a head on features that are known exactly: float32 logits outside their bounds."""
    torch.manual_seed(seed)
    config = NetConfig(kind="net_mlp", hidden=(64,), mlp_hidden=16)
    net = build_net(config, input_shape=(1, 2, 2), num_classes=5, mean=(0.5,), std=0.5)
    net.requires_grad_(False)
    features = torch.randn(20, 64) * 3
    hidden = net.tanh(net.fc1(features))
    exact = features.double(), features.double()
    low, high = sound._tanh(*sound._linear(net.fc1, *exact))
    outside = int(((hidden < low) | (hidden > high)).sum())
    logits = net.head(features).double()
    labels = torch.arange(20) % 5
    own = logits.gather(1, labels[:, None])
    exact = net.tanh(net.fc1(features)).double()
    margins = sound._merged_margins(net.fc2, exact, exact, labels)
    return outside + int((logits - own > margins).sum())


def test_sums_that_float32_may_overflow_are_not_bounded():
    net = random_net("net_mlp", 0)
    net.fc1.weight.fill_(3e38)
    images = random_images(net, 2, 0)
    labels = torch.zeros(2, dtype=torch.int64)
    box = sound.sound_pixel_box(images, up(Fraction(1, 10)))
    assert sound.sound_margins_on_box(net, *box, labels)[:, 1:].isnan().all()
    assert not sound_certified(net, images, labels, Fraction(0)).any()
    assert sound.gamma(2**23, sound.UNIT_32) == math.inf


def test_tanh_is_far_more_exact_than_is_assumed():
    x = torch.cat((torch.linspace(-20, 20, 2_000_001), torch.logspace(-30, 1, 100_001)))
    off = (x.tanh().double() - x.double().tanh()).abs()
    assert (off <= sound.TANH_ERROR / 2 * x.double().tanh().abs() + sound.TINY).all()
    x = torch.cat((x[::2000], x[-100_001::200])).double()
    x += 1e-9 * x
    exact = [mpmath.tanh(value) for value in x.tolist()]
    for found, true in zip(x.tanh().tolist(), exact, strict=True):
        assert abs(found - true) <= 2.0**-50 * abs(true) + sound.TINY


# --- certificates -----------------------------------------------------------------------------


def trained_like(kind: str):
    """A network and images that it classifies as they are labelled, but for every fourth."""
    net = random_net(kind, 12)
    images = random_images(net, 64, 1)
    labels = net(to_pixels(images)).argmax(1)
    labels[::4] = (labels[::4] + 1) % net.num_classes
    return net, images, labels


BOTH = pytest.mark.parametrize("kind", ["net", "net_mlp", "conv_net_mlp"])


@BOTH
def test_sound_implies_interval_and_bounds_are_wider(kind):
    for seed in range(40):
        net = random_net(kind, seed)
        images, labels = random_images(net, 16, seed), torch.arange(16) % net.num_classes
        pixels = to_pixels(images)
        for eps in (Fraction(0), Fraction(1, 100), Fraction(8, 255)):
            plain = pixel_box(pixels, torch.tensor(float(eps), dtype=torch.float64))
            box = sound.sound_pixel_box(images, up(eps))
            assert (box[0] <= plain[0]).all() and (box[1] >= plain[1]).all()
            margins = net.worst_case_margins_on_box(*plain, labels)
            assert (sound.sound_margins_on_box(net, *box, labels) >= margins).all()
            certified = sound_certified(net, images, labels, eps)
            assert (certified <= interval_certified(net, pixels, labels, eps)).all()


@BOTH
def test_radii_are_certified_and_agree_with_the_verdict(kind):
    net, images, labels = trained_like(kind)
    for eps in (Fraction(1, 1000), Fraction(1, 30)):
        radii = interval_radius(net, to_pixels(images), labels, 4 * eps, eps=eps)
        certified, radius = sound_certificates(net, images, labels, eps, radii)
        assert torch.equal(certified, sound_certified(net, images, labels, eps))
        assert [Fraction(r) >= eps for r in radius.tolist()] == certified.tolist()
        assert sound_certified(net, images, labels, radius)[radius > 0].all()
        assert (radius <= radii.maximum(up(eps))).all() and (radius >= radii - 5e-6).all()
        assert (radius > 0).sum() > 16 and (radius[::4] == 0).all()
    lowered = sound_radius(net, images, labels, radii + 1e-5)
    assert (lowered < radii + 1e-5).any() and sound_certified(net, images, labels, lowered)[1]


def test_a_tie_is_no_certificate():
    net = random_net("net", 3)
    net.last.weight[1:] = net.last.weight[0]
    net.last.bias.zero_()
    images = random_images(net, 8, 0)
    labels = torch.zeros(8, dtype=torch.int64)
    assert (net(to_pixels(images)).argmax(1) == 0).all()
    assert not sound_certified(net, images, labels, Fraction(0)).any()


def test_empty_batch():
    net = random_net("net_mlp", 0)
    images, labels = torch.empty(0, *net.input_shape, dtype=torch.uint8), torch.empty(0).long()
    assert sound_certified(net, images, labels, Fraction(1, 10)).shape == (0,)
    assert sound_radius(net, images, labels, torch.empty(0)).shape == (0,)


def test_bad_input_is_refused_by_name():
    net, images, labels = trained_like("net_mlp")
    with pytest.raises(TypeError, match=r"images must be uint8.*got torch.float32\. Pass the"):
        sound_certified(net, to_pixels(images), labels, Fraction(1, 10))
    with pytest.raises(ValueError, match=r"labels must have shape \(64,\)"):
        sound_certified(net, images, labels[:3], Fraction(1, 10))
    with pytest.raises(ValueError, match=r"eps must be at least 0, in pixels; got -0\.1"):
        sound_certified(net, images, labels, -0.1)
    with pytest.raises(ValueError, match=r"radii must have shape \(64,\).*got \(\)"):
        sound_radius(net, images, labels, 0.1)
    with matmul_precision("high"), pytest.raises(ValueError, match="precision is 'high'"):
        sound_certified(net, images, labels, Fraction(1, 10))
    if torch.set_flush_denormal(True):
        try:
            with pytest.raises(ValueError, match="denormals must be kept"):
                sound_certified(net, images, labels, Fraction(1, 10))
        finally:
            torch.set_flush_denormal(False)
    with pytest.raises(TypeError, match=r"LinfDistNetMLP in float32; got LinfDistNetMLP, torch.fl"):
        sound_certified(net.double(), images, labels, Fraction(1, 10))
    with pytest.raises(TypeError, match=r"got CapNet, torch.float64\. Use interval_certified"):
        sound_certified(small_baselines.small("cap"), images, labels, Fraction(1, 10))
    net, images, labels = trained_like("net")
    net.last.bias[0] = math.nan
    with pytest.raises(ValueError, match=r"weights must be finite; last\.bias holds NaN"):
        sound_certified(net, images, labels, Fraction(1, 10))
    net.last.bias[0] = 0
    net.features.layers.append(nn.ReLU())
    with pytest.raises(TypeError, match="sound certificates have no rule for ReLU"):
        sound_certified(net, images, labels, Fraction(1, 10))


# --- the same bits everywhere, at p = ∞ -------------------------------------------------------


@pytest.fixture
def wide():
    """A net that threads, tiles and odd sizes matter to, its images, and its output on them."""
    torch.manual_seed(0)
    config = NetConfig(kind="net", hidden=(131, 257))
    net = build_net(config, input_shape=(3, 9, 9), num_classes=10, mean=(0.4, 0.5, 0.6), std=0.2009)
    net.eval().requires_grad_(False)
    pixels = to_pixels(random_images(net, 77, 0))
    with one_thread():
        return net, pixels, net(pixels)


def same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.cpu().view(torch.int32))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_the_same_bits_with_any_number_of_threads(wide, threads):
    net, pixels, expected = wide
    with one_thread():
        torch.set_num_threads(threads)
        assert same_bits(expected, net(pixels))


@pytest.mark.parametrize("size", [1, 2, 13, 64])
def test_the_same_bits_in_batches_of_any_size(wide, size):
    net, pixels, expected = wide
    assert same_bits(expected, torch.cat([net(part) for part in pixels.split(size)]))


def test_the_same_bits_of_the_reference(wide, monkeypatch):
    net, pixels, expected = wide
    used = []
    monkeypatch.setattr("linfdist.ops.lp_distance.uses_native", lambda *_: used.append(1))
    assert same_bits(expected, net(pixels)) and len(used) == 3


def test_the_same_bits_of_inputs_that_are_not_contiguous(wide):
    net, pixels, expected = wide
    for apart in (
        pixels.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.stack((pixels, pixels), -1)[..., 0],
        pixels.to(memory_format=torch.channels_last),
    ):
        assert not apart.is_contiguous() and same_bits(expected, net(apart))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_bits_on_a_gpu(wide):
    net, pixels, expected = wide
    assert same_bits(expected, net.cuda()(pixels.cuda()))


def test_a_divisor_that_is_a_tensor_changes_no_bit():
    """On a CPU; on a GPU a number is inverted first, and rounds another way."""
    x = torch.rand(100_003)
    for std in (0.3081, 0.2009, 0.3520, 0.2276, 0.3758):
        assert same_bits(x / std, x / torch.tensor(std))
