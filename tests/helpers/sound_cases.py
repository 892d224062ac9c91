"""Small nets of all magnitudes, exact images of a ball, and the bounds that they leave."""

from fractions import Fraction

import numpy as np
import torch
from helpers import exact_nets
from torch import Tensor, nn

from linfdist.data import to_pixels
from linfdist.nn import NetConfig, build_net
from linfdist.robust import boxes, sound
from linfdist.robust.checks import radius
from linfdist.system.inputs import float_above

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
        if "normalize" in name:
            continue
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
    box = boxes.sound_pixel_box(images, radius(eps, images, "test", up=True))
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


def up(eps: Fraction) -> Tensor:
    return torch.tensor(float_above(Fraction(eps)), dtype=torch.float64)
