"""Every argument of every certificate, attack, loss and evaluation: one rule, and errors by name.

The tables below are walked by the names in ``__all__`` and by each function's parameters: a
function or parameter that is new fails until it is in them.
"""

import math
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.arguments import functions_of, parameters_of, refusal, same
from torch import nn
from torch.optim.swa_utils import AveragedModel

import linfdist
from linfdist import evaluation, robust
from linfdist.data import DatasetInfo, ImageSet, to_pixels
from linfdist.nn import NetConfig, build_net, reestimate_mean_shift
from linfdist.robust.attacks.ensemble import CONVENTIONAL, AttackSetting
from linfdist.system.devices import DeviceError

SHAPE = (1, 2, 2)
EPS = Fraction(1, 16)  # of which float16, too, is that number
SOME = {
    "pgd": AttackSetting("pgd", {"num_steps": 2}),
    "square": AttackSetting("square_attack", {"num_queries": 5}),
}
INFO = DatasetInfo(
    name="noise",
    title="Noise",
    input_shape=SHAPE,
    num_classes=3,
    mean=(0.5,),
    std=0.5,
    eps=EPS,
)


def build(seed=1, config=None):
    torch.manual_seed(seed)
    config = config or NetConfig(kind="net", hidden=(6,), identity_value=None)
    net = build_net(config, input_shape=SHAPE, num_classes=3, mean=(0.5,), std=0.5)
    reestimate_mean_shift(net, [torch.rand(64, *SHAPE)])
    return net.eval()


NET = build()
LEVELS = torch.randint(
    0, 256, (12, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)
)
PIXELS = to_pixels(LEVELS)
with torch.no_grad():
    LABELS = NET(PIXELS).argmax(1)
    LABELS[::4] = (LABELS[::4] + 1) % 3
    LOGITS = NET(PIXELS)
SET = ImageSet(LEVELS, LABELS, INFO)
RADII = robust.interval_radius(NET, PIXELS, LABELS, 1)
ATTACKED = {"net": NET, "images": PIXELS, "labels": LABELS, "eps": EPS}

# Arguments that every function takes as they are here.
CALLS = {
    "HingeLoss": {"threshold": EPS, "mix": 0.5},
    "IBPLoss": {"eps_train": EPS, "kappa": 0.5},
    "MixtureLoss": {"threshold": EPS, "weights": (0.1, 0.1, 0.01), "scale": 1.0, "scale_rate": 0.2},
    "GatedLoss": {"eps_train": EPS, "weights": (1.0, 0.5, 0.02)},
    "attacked_radius": {
        **{"net": NET, "images": PIXELS, "labels": LABELS, "radii": [EPS, 2 * EPS]},
        **{"attacks": SOME, "generator": None},
    },
    "exact_radius": {
        **{"net": NET, "image": PIXELS[1], "label": int(LABELS[1])},
        **{"tolerance": 0.01, "max_nodes": 500},
    },
    "guided_pgd": {
        **ATTACKED,
        **{"guide": 100.0, "loss": "margin", "num_steps": 5, "num_restarts": 2, "generator": None},
    },
    "hinge_loss": {"logits": LOGITS, "labels": LABELS, "threshold": 0.5, "mix": 0.5},
    "ibp_loss": {"logits": LOGITS, "worst_margins": LOGITS, "labels": LABELS, "kappa": 0.5},
    "clipped_hinge_loss": {"logits": LOGITS, "labels": LABELS, "threshold": 0.5},
    "mixture_loss": {
        **{"logits": LOGITS, "labels": LABELS, "threshold": 0.5, "weight": 0.1, "scale": 2.0},
    },
    "gated_loss": {"logits": LOGITS, "worst_margins": LOGITS, "labels": LABELS, "weight": 0.1},
    "interval_certified": ATTACKED,
    "interval_radius": {**ATTACKED, "max_radius": 4 * EPS, "num_steps": 3},
    "margin_radius": {"net": NET, "images": PIXELS, "labels": LABELS},
    "pgd": {**ATTACKED, "num_steps": 3, "step_size": 0.01, "p": math.inf, "generator": None},
    "sound_certificates": {**ATTACKED, "images": LEVELS, "radii": RADII},
    "sound_certified": {**ATTACKED, "images": LEVELS},
    "sound_radius": {"net": NET, "images": LEVELS, "labels": LABELS, "radii": RADII},
    "square_attack": {**ATTACKED, "num_queries": 20, "p_init": 0.8, "generator": None},
    "strongest": {**ATTACKED, "attacks": SOME, "generator": None},
    "accuracy": {
        **{"net": NET, "images": SET, "p": math.inf, "batch_size": 5, "together": False},
    },
    "clean_and_certified": {
        **{"net": NET, "images": SET, "eps": EPS, "p": math.inf, "batch_size": 5},
        **{"together": False},
    },
    "evaluate": {
        **{"net": NET, "test": SET, "eps": EPS, "batch_size": 5, "seed": 3, "device": "cpu"},
        **{"progress": False},
    },
    "sound_columns": {
        **{"net": NET, "images": LEVELS, "labels": LABELS, "eps": EPS, "radii": RADII},
        **{"certified": robust.interval_certified(NET, PIXELS, LABELS, EPS)},
    },
}
# What results are made of, what a network must be, and which networks there are: no arguments.
NO_CALLS = {"SOUND", "Attack", "Classifier", "ExactRadius", "Lipschitz", "Loss", "Strongest"}
ERRORS = (TypeError, ValueError, DeviceError)
ANY = {"together", "progress"}  # true or not
# Of one number for all images, because these take a whole set or one image.
SCALAR_EPS = {"evaluate", "clean_and_certified"}
# What else checks the arguments of a function, or an argument of any.
ALSO_NAMED = {"sound_columns": ("sound_certificates: ",), "device": ("device '",)}
FUNCTIONS = {name: getattr(robust, name, None) or getattr(evaluation, name) for name in CALLS}


def call(name, **changes):
    """The function's result with these arguments in the place of its own, and a fresh seed."""
    given = {**CALLS[name], **changes}
    if "generator" in given and given["generator"] is None:
        given["generator"] = torch.Generator().manual_seed(5)
    return FUNCTIONS[name](**given)


def test_every_public_function_is_in_the_tables():
    public = {*robust.__all__} - NO_CALLS | {*functions_of(evaluation)}
    assert public == {*CALLS}
    for name, given in CALLS.items():
        # A parameter with a default that is not in the table would not be walked.
        assert {*parameters_of(FUNCTIONS[name])} == {*given}, name


# --- what is refused ----------------------------------------------------------------------------


class WithLipschitz(nn.Sequential):
    """All attributes, and a forward without p."""

    lipschitz, num_classes, input_shape = 1.0, 3, SHAPE

    def worst_case_margins_on_box(self, lower, upper, labels):
        return self(upper) - self(lower)


def other_networks():
    """Networks and others that are no ``Classifier``, or whose weights are not to be used."""
    yield from (None, "net", NET.forward, type(NET), lambda x, p=math.inf: x.flatten(1)[:, :3])
    yield nn.Linear(4, 3)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    yield plain
    plain.lipschitz = 1.0
    yield plain
    yield WithLipschitz(nn.Flatten(), nn.Linear(4, 3))
    yield nn.DataParallel(NET)
    yield AveragedModel(NET)
    yield build().half()
    yield build().bfloat16()
    mixed = build()
    mixed.last.double()
    yield mixed
    for attribute, value in (("input_shape", 4), ("num_classes", "3"), ("lipschitz", "1")):
        broken = type("Broken", (type(NET),), {attribute: value})
        if attribute != "num_classes":
            net = build()
            net.__class__ = broken
        else:
            net = build()
            net.num_classes = value
        yield net
    with torch.device("meta"):
        yield build_net(
            NetConfig(kind="net", hidden=(6,)),
            input_shape=SHAPE,
            num_classes=3,
            mean=(0.5,),
            std=0.5,
        )
    with torch.inference_mode():
        yield build()


def other_pixels(images):
    """What is not pixels of the network, in the shape of ``images``."""
    yield from (None, images.numpy(), images.tolist(), "images", [images])
    yield from (images.half(), images.bfloat16(), images.to(torch.complex64), images.bool())
    yield from (images.double(), images.to_sparse(), images.to("meta"), (255 * images).byte())
    yield from (images + 1, images * 0 - 1e-7, 255 * images, images * math.nan, images - math.inf)
    yield from (images[..., :1], images.flatten(), images.flatten(1), torch.tensor(0.5))
    yield from (images[:0], images.squeeze(), images[None, None])


def other_levels():
    """What is not uint8 images of the network."""
    yield from (None, LEVELS.numpy(), LEVELS.tolist(), PIXELS, LEVELS.long(), LEVELS.char())
    yield from (LEVELS.bool(), LEVELS[..., :1], LEVELS.flatten(1), LEVELS.to("meta"), LEVELS[:2])


def other_labels():
    """What is not one integer label for each image."""
    yield from (None, "1", 1, LABELS.tolist(), tuple(LABELS.tolist()), range(12), {1: 2})
    yield from (LABELS.float(), LABELS.double(), LABELS.half(), LABELS.bool(), LABELS == 1)
    yield from (LABELS.to(torch.complex64), LABELS.numpy().astype(float), LABELS.numpy() == 1)
    yield from (LABELS.numpy().astype(object), LABELS.numpy().astype(str))
    yield from (LABELS[:3], LABELS[None], LABELS[:, None], LABELS.to("meta"), torch.tensor(1))
    yield nn.functional.one_hot(LABELS, 3)


OUTSIDE = (LABELS + 3, LABELS - 3, LABELS.int() - 3, LABELS.numpy() + 3)
NO_RADII = (
    *(None, "8/255", "0.1", b"0.1", Decimal("0.1"), True, False, 0.1j, [0.1], (EPS,), {}),
    *(math.nan, -0.1, -1, Fraction(-1, 10), -math.inf, math.inf, 8, 8.0, Fraction(8), 1.5, 10**400),
    *(np.float32(-1), np.float64(math.nan), np.bool_(True), np.longdouble(0.1), np.complex64(0.1)),
    *(torch.tensor(True), torch.tensor(0), torch.tensor(0.1j), torch.tensor(2.0)),
    *(torch.tensor(math.nan), torch.tensor(0.1, device="meta"), np.array("0.1"), np.array(True)),
)
SIXTEENTHS = torch.full((12,), 1 / 16)
NO_RADII_OF_IMAGES = (
    *(SIXTEENTHS[:3], SIXTEENTHS[:1], SIXTEENTHS[:, None], SIXTEENTHS[None], SIXTEENTHS[:0]),
    *(SIXTEENTHS.long(), SIXTEENTHS.bool(), SIXTEENTHS.to(torch.complex64), SIXTEENTHS.to("meta")),
    *(-SIXTEENTHS, SIXTEENTHS * math.nan, SIXTEENTHS * 255, SIXTEENTHS.numpy()[:3]),
    *(SIXTEENTHS.numpy().astype(str), SIXTEENTHS.numpy().astype(object), SIXTEENTHS.tolist()),
)
NO_NUMBERS = (None, "1", b"1", True, 1j, [1.0], (1,), Decimal("0.1"), torch.tensor([0.5, 0.5]))
NO_COUNTS = (None, "5", 2.0, 2.5, True, -1, Fraction(2), [3], math.nan, math.inf, np.float64(3))
NO_NORMS = (*NO_NUMBERS, 0.5, 0, -math.inf, math.nan, -2, "inf")
NO_WEIGHTS = (*NO_NUMBERS, -0.1, 1.1, math.nan, math.inf)

BAD = {
    "net": other_networks,
    "images": lambda: other_pixels(PIXELS),
    "image": lambda: [
        bad for bad in other_pixels(PIXELS[1]) if getattr(bad, "dtype", None) != torch.float64
    ],
    "labels": lambda: (*other_labels(), *OUTSIDE),
    "label": lambda: (None, "1", 1.0, True, -1, 3, [1], LABELS[:2], torch.tensor(1.0)),
    "eps": lambda: NO_RADII + NO_RADII_OF_IMAGES,
    "max_radius": lambda: (*NO_RADII, *NO_RADII_OF_IMAGES, 0.0),
    "eps_train": lambda: (
        bad for bad in NO_RADII if not isinstance(bad, torch.Tensor | np.ndarray | np.longdouble)
    ),
    "radii": lambda: (*NO_RADII, *NO_RADII_OF_IMAGES, 0.1),
    "num_steps": lambda: NO_COUNTS,
    "num_restarts": lambda: (*NO_COUNTS, 0),
    "num_queries": lambda: (*NO_COUNTS, 0),
    "max_nodes": lambda: (*NO_COUNTS, 0),
    "batch_size": lambda: (*NO_COUNTS, 0),
    "seed": lambda: (*NO_COUNTS, 2**64, -(2**64)),
    "step_size": lambda: (*NO_NUMBERS[1:], -0.1, math.nan, math.inf),
    "tolerance": lambda: (*NO_NUMBERS, 0, -1, math.nan),
    "p_init": lambda: (*NO_WEIGHTS, 0),
    "mix": lambda: NO_WEIGHTS,
    "kappa": lambda: NO_WEIGHTS,
    "threshold": lambda: (*NO_NUMBERS, math.nan, math.inf),
    "weights": lambda: (
        *(None, "111", 1.0, (1.0,), (1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)),
        *((math.nan, 1.0, 1.0), (math.inf, 1.0, 1.0), ("1", 1.0, 1.0), (True, 1.0, 1.0)),
    ),
    "weight": lambda: (*NO_NUMBERS, -0.1, math.nan, math.inf),
    "scale": lambda: (*NO_NUMBERS, math.nan, math.inf),
    "scale_rate": lambda: (*NO_NUMBERS, -0.1, math.nan, math.inf),
    "p": lambda: NO_NORMS,
    "guide": lambda: NO_NORMS,
    "loss": lambda: (None, "dlr", 1, ["margin"]),
    "attacks": lambda: (None, "pgd", [SOME["pgd"]], {"pgd": "pgd"}, {"pgd": None}, SOME["pgd"]),
    "generator": lambda: (0, "cpu", np.random.default_rng(0), torch.device("cpu"), [None]),
    "device": lambda: (3.5, "gpu", "meta", ["cpu"]),
    "test": lambda: (None, PIXELS, (LEVELS, LABELS), [(LEVELS, LABELS)], SHAPED, EMPTY, FOREIGN),
    "logits": lambda: (None, LOGITS.tolist(), LOGITS.numpy(), LOGITS.long(), LOGITS[0], LOGITS[:5]),
    "worst_margins": lambda: (None, LOGITS.tolist(), LOGITS[:, :2], LOGITS[0], LOGITS[:5]),
    "certified": lambda: (None, LABELS, [True], torch.ones(3, dtype=torch.bool)),
}
SHAPED = ImageSet(LEVELS[..., :1], LABELS, INFO)
EMPTY = ImageSet(LEVELS[:0], LABELS[:0], INFO)
FOREIGN = ImageSet(LEVELS, LABELS + 1, DatasetInfo(**{**vars(INFO), "num_classes": 4}))


LOSSES = ("hinge_loss", "ibp_loss", "clipped_hinge_loss", "mixture_loss", "gated_loss")


def bad_values(name, parameter):
    """What the function must refuse at the parameter."""
    if parameter == "images" and CALLS[name]["images"] is LEVELS:
        return [*other_levels()]
    if parameter == "images" and CALLS[name]["images"] is SET:
        return [*BAD["test"]()]
    values = [*BAD[parameter]()]
    if name == "attacked_radius" and parameter == "radii":
        return [None, "0.1", 0.1, EPS, [], ["0.1"], [True], [0.1, math.nan], [-1], [8], SOME]
    if name in LOSSES and parameter == "labels":
        return [*other_labels()]  # values are not read: that would wait for a GPU
    if name == "interval_radius" and parameter == "eps":
        return [value for value in values if value is not None]
    positive = (("MixtureLoss", "threshold"), ("MixtureLoss", "scale"), ("HingeLoss", "threshold"))
    if (name, parameter) in positive or (name in LOSSES[2:] and parameter == "threshold"):
        return [*values, 0, Fraction(-1, 2)]
    return values


WALK = [
    (name, parameter)
    for name, given in CALLS.items()
    for parameter in given
    if parameter not in ANY
]


@pytest.mark.parametrize(("name", "parameter"), WALK, ids=map(".".join, WALK))
def test_what_an_argument_must_not_be_is_refused_by_the_callers_name(name, parameter):
    prefix = (f"{name}: ", *ALSO_NAMED.get(name, ()), *ALSO_NAMED.get(parameter, ()))
    wrong = {}
    for index, bad in enumerate(bad_values(name, parameter)):
        if parameter == "net" and name != "margin_radius" and getattr(bad, "lipschitz", 0) == "1":
            continue  # no others divide by it
        found = refusal(
            lambda bad=bad: call(name, **{parameter: bad}),
            prefix,
            (TypeError, ValueError, DeviceError),
        )
        if found is not None:
            wrong[f"{index}: {type(bad).__name__} {str(bad)[:60]}"] = found
    assert not wrong


# --- what is the same ---------------------------------------------------------------------------


def same_labels():
    yield from (LABELS.int(), LABELS.short(), LABELS.char(), LABELS.byte(), LABELS.to(torch.uint16))
    yield from (LABELS.to(torch.uint32), LABELS.to(torch.uint64))
    yield from (LABELS.numpy().astype(kind) for kind in ("i1", "u1", "<i4", ">i4", "u8", ">i8"))
    yield from (np.repeat(LABELS.numpy(), 2)[::2], np.flip(LABELS.numpy()).copy()[::-1])
    read_only = LABELS.numpy().copy()
    read_only.flags.writeable = False
    yield read_only
    yield LABELS.repeat_interleave(2)[::2]
    yield inference(LABELS)


def same_images(images):
    """The same values in another layout, in a graph, or of another kind of tensor."""
    yield images[..., None].repeat(1, 1, 1, 1, 2)[..., 0] if images.ndim == 4 else images.clone()
    yield images.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield inference(images)
    if images.is_floating_point():
        yield images.clone().requires_grad_(True)
        yield 1 * images.clone().requires_grad_(True)
        yield nn.Parameter(images.clone())


def inference(tensor):
    with torch.inference_mode():
        return tensor.clone()


SAME_EPS = (
    *(1 / 16, np.float64(1 / 16), np.float32(1 / 16), np.float16(1 / 16), np.array(1 / 16)),
    *(torch.tensor(1 / 16), torch.tensor(1 / 16).double(), torch.tensor(1 / 16).half()),
    inference(torch.tensor(1 / 16)),
)
SAME_EPS_OF_IMAGES = (
    *(SIXTEENTHS, SIXTEENTHS.double(), SIXTEENTHS.half(), SIXTEENTHS.bfloat16()),
    *(SIXTEENTHS.numpy(), SIXTEENTHS.double().numpy()[::-1], SIXTEENTHS.numpy().astype(">f8")),
    *(inference(SIXTEENTHS), SIXTEENTHS.clone().requires_grad_(True)),
)


def same_values(name, parameter):
    """Pairs: an argument, and another that must give the same result."""
    given = CALLS[name][parameter]
    if parameter == "labels":
        return [(given, other) for other in same_labels()]
    if parameter == "label":
        kinds = (np.int8, np.uint8, np.int64, torch.tensor)
        return [(given, kind(given)) for kind in kinds]
    if parameter in ("images", "image") and given is not SET:
        return [(given, other) for other in same_images(given)]
    if parameter == "eps" and name != "interval_radius":
        several = () if name in SCALAR_EPS else SAME_EPS_OF_IMAGES
        return [(given, other) for other in SAME_EPS + several]
    if name == "interval_radius" and parameter in ("eps", "max_radius"):
        others = [1 / 16, torch.tensor(1 / 16), SIXTEENTHS, SIXTEENTHS.numpy()]
        times = int(given / EPS)
        return [(given, times * other) for other in others]
    if parameter == "radii" and name == "attacked_radius":
        others = ((0.0625, 0.125), torch.tensor([0.125, 0.0625]), np.array([0.0625, 0.125]))
        return [(given, other) for other in others]
    if parameter == "radii":
        return [(given, given.numpy()), (given, inference(given)), (given, given.clone())]
    if isinstance(given, int) and not isinstance(given, bool):
        return [(given, np.int32(given)), (given, np.uint16(given))]
    if isinstance(given, float | Fraction):
        exact = Fraction(given) if math.isfinite(given) else given
        return [(given, np.float64(given)), (given, exact)]
    return []


PAIRS = [(name, parameter) for name, parameter in WALK if same_values(name, parameter)]


@pytest.mark.parametrize(("name", "parameter"), PAIRS, ids=map(".".join, PAIRS))
def test_the_same_value_of_another_kind_gives_the_same_result(name, parameter):
    expected = call(name)
    for _, other in same_values(name, parameter):
        assert same(call(name, **{parameter: other}), expected), repr(other)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_the_same_gradient_for_labels_of_every_kind(name):
    gradients = []
    for labels in (LABELS, *same_labels()):
        logits = LOGITS.clone().requires_grad_(True)
        call(name, logits=logits, labels=labels).backward()
        gradients.append(logits.grad)
    assert gradients[0].any() and all(same(gradient, gradients[0]) for gradient in gradients)


def test_labels_are_not_changed_and_not_kept():
    before = LABELS.clone()
    for name in ("pgd", "strongest", "interval_radius"):
        call(name)
    assert torch.equal(LABELS, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", CALLS)
def test_every_mode_of_autograd_gives_the_same_result(name, mode):
    expected = call(name)
    with mode():
        assert same(call(name), expected)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        # Made inside, as a data loader's batches are.
        for parameter in {"images", "image", "labels"} & {*CALLS[name]}:
            if isinstance(value := CALLS[name][parameter], torch.Tensor):
                assert same(call(name, **{parameter: value.clone()}), expected)


def test_a_network_that_was_built_in_inference_mode_is_certified_in_it_and_not_attacked():
    with torch.inference_mode():
        net = build()
        found = robust.margin_radius(net, PIXELS, LABELS)
        assert same(found, robust.margin_radius(NET, PIXELS, LABELS))
        for attack in (robust.pgd, robust.guided_pgd, robust.strongest):
            with pytest.raises(ValueError, match="net must not hold inference tensors"):
                attack(net, PIXELS, LABELS, EPS)


def test_pixels_of_less_precision_than_the_network_are_taken():
    net = build().double()
    for attack in (robust.pgd, robust.guided_pgd, robust.square_attack):
        assert attack(net, PIXELS, LABELS, EPS).adversarial.dtype == torch.float32
    assert robust.interval_certified(net, PIXELS, LABELS, EPS).any()
    assert robust.interval_certified(net, PIXELS.double(), LABELS, EPS).any()


# --- what the errors say ------------------------------------------------------------------------


def test_a_radius_of_levels_is_told_its_fraction():
    for eps in (8, 8.0, Fraction(8), np.int64(8)):
        with pytest.raises(ValueError, match=r"got 8.*Did you mean Fraction\(8, 255\)"):
            robust.pgd(NET, PIXELS, LABELS, eps)
    with pytest.raises(ValueError, match=r"got 1\.5\. Did you mean 1, which reaches every image"):
        robust.pgd(NET, PIXELS, LABELS, 1.5)
    with pytest.raises(TypeError, match=r"got '0\.3' \(str\)\. A Fraction is exact"):
        robust.sound_certified(NET, LEVELS, LABELS, "0.3")
    with pytest.raises(TypeError, match=r"Decimal\('0\.3'\) \(Decimal\)\. A Fraction is exact"):
        robust.sound_certified(NET, LEVELS, LABELS, Decimal("0.3"))


def test_what_a_resize_leaves_outside_is_shown_and_told_to_be_cut_off():
    images = PIXELS.clone()
    images[0, 0, 0, 0] = 1.0000001
    with pytest.raises(ValueError, match=r"to 1\.0000001192092896\. .*images\.clamp\(0, 1\)"):
        robust.pgd(NET, images, LABELS, EPS)
    images[0, 0, 0, 0] = -1e-9
    with pytest.raises(ValueError, match=r"from -9\.99\d*e-10 to .*images\.clamp\(0, 1\)"):
        robust.margin_radius(NET, images, LABELS)
    with pytest.raises(ValueError, match=r"to 255\.0\. .*Divide levels of 0 to 255 by 255"):
        robust.margin_radius(NET, (PIXELS * 255).round().clamp_min(255), LABELS)


def test_a_wrapped_network_is_told_to_be_unwrapped():
    for wrapped in (nn.DataParallel(NET), AveragedModel(NET)):
        with pytest.raises(TypeError, match=r"pgd: net must .*the network inside, its \.module"):
            robust.pgd(wrapped, PIXELS, LABELS, EPS)


def test_a_compiled_network_is_not_evaluated_without_its_certificate():
    with warnings.catch_warnings():  # of torch's own modules, as they are imported
        warnings.simplefilter("ignore")
        wrapped = torch.compile(NET)
    for name in ("evaluate", "accuracy", "clean_and_certified"):
        with pytest.raises(TypeError, match=f"{name}: net must be.*OptimizedModule"):
            call(name, net=wrapped)


# --- radii of each image ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pgd", "guided_pgd", "square_attack", "strongest"])
def test_every_image_is_attacked_within_its_own_radius(name):
    eps = torch.linspace(0, 0.4, 12).double()
    found = call(name, eps=eps)
    distance = (found.adversarial.double() - PIXELS.double()).abs().flatten(1).amax(1)
    assert (distance <= eps + 1e-7).all() and (distance[2:] > eps[1:-1]).any()
    assert torch.equal(found.survived, NET(found.adversarial).argmax(1) == LABELS)
    certified = robust.interval_certified(NET, PIXELS, LABELS, eps)
    assert (certified <= found.survived).all() and not found.survived.all()


def test_the_default_step_is_a_quarter_of_each_radius():
    eps = torch.full((12,), 0.25)
    eps[6:] = 0.125
    found = call("pgd", eps=eps, step_size=None, num_steps=4).adversarial
    for rows, radius in ((slice(0, 6), 0.25), (slice(6, 12), 0.125)):
        one = call("pgd", eps=radius, step_size=radius / 4, num_steps=4).adversarial
        assert torch.equal(found[rows], one[rows])


# --- a network of one's own ---------------------------------------------------------------------


class Templates(nn.Module):
    """Logits are minus the l_inf distances to one template a class: 1-Lipschitz in the pixels.

    All that ``linfdist.robust.Classifier`` asks for.
    """

    input_shape, num_classes, lipschitz = SHAPE, 3, 1.0

    def __init__(self):
        super().__init__()
        self.templates = nn.Parameter(torch.rand(3, 4))

    def forward(self, x, p=math.inf):
        return -torch.linalg.vector_norm(x.flatten(1)[:, None] - self.templates, p, dim=2)

    def worst_case_margins_on_box(self, lower, upper, labels):
        lower, upper = lower.flatten(1)[:, None], upper.flatten(1)[:, None]
        far = torch.maximum(upper - self.templates, self.templates - lower).amax(2)
        near = torch.maximum(lower - self.templates, self.templates - upper).clamp_min(0).amax(2)
        margins = far.gather(1, labels[:, None]) - near
        return margins.scatter(1, labels[:, None], 0.0)


def test_a_network_of_ones_own_is_attacked_certified_and_evaluated():
    torch.manual_seed(3)
    net = Templates()
    labels = net(PIXELS).argmax(1)
    radius = robust.interval_radius(net, PIXELS, labels, 1, num_steps=20)
    assert (radius >= robust.margin_radius(net, PIXELS, labels) - 1e-5).all() and radius.all()
    certified = robust.interval_certified(net, PIXELS, labels, EPS)
    some = {name: CONVENTIONAL[name] for name in ("pgd_20", "guided_inf", "guided_inf_ce")}
    found = robust.strongest(net, PIXELS, labels, EPS, attacks=some)
    assert certified.any() and (certified <= found.survived).all()
    assert (radius <= robust.attacked_radius(net, PIXELS, labels, [0.1, 0.3], attacks=SOME)).all()
    metrics, _ = evaluation.evaluate(net, ImageSet(LEVELS, labels, INFO), EPS)
    assert metrics["clean_accuracy"] == 1
    assert metrics["certified_accuracy"] == certified.double().mean().item()
    assert evaluation.clean_and_certified(net, ImageSet(LEVELS, labels, INFO), eps=EPS)[0] == 1


def test_the_lipschitz_constant_of_a_network_of_ones_own_must_be_one():
    for value in (0, -1.0, math.nan, math.inf, "1", None, torch.ones(2)):
        net = Templates()
        net.lipschitz = value
        for run in (
            lambda net=net: robust.margin_radius(net, PIXELS, LABELS),
            lambda net=net: robust.interval_radius(net, PIXELS, LABELS, 1),
            lambda net=net: evaluation.clean_and_certified(net, SET, eps=EPS),
        ):
            with pytest.raises((TypeError, ValueError), match=r"\w: net\.lipschitz must be"):
                run()


def test_an_attack_of_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match=r"Unknown method of an AttackSetting 'pdg'.*'pgd'"):
        AttackSetting("pdg", {})
    for method in (None, ["pgd"], robust.pgd):
        with pytest.raises(TypeError, match="AttackSetting: method must be one of pgd, guided"):
            AttackSetting(method, {})
    with pytest.raises(TypeError, match="AttackSetting: arguments must be a mapping"):
        AttackSetting("pgd", [("num_steps", 3)])


def test_the_errors_are_raised_by_the_package():
    """``refusal`` sees torch's own errors, and those of Python's operators, as none of these."""
    assert refusal(lambda: torch.zeros(2) + torch.zeros(3), "pgd: ") is not None
    assert refusal(lambda: 1 < "1", "pgd: ") is not None
    assert refusal(lambda: linfdist.data.to_pixels(PIXELS), "to_pixels: ") is None
    assert refusal(lambda: linfdist.data.to_pixels(PIXELS), "pgd: ") is not None
    assert refusal(lambda: None, "") == "no error"
