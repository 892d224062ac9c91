"""One source of mean and std: the buffers that forward uses, which every certificate reads."""

import copy
import io
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import small_baselines

from linfdist.baselines import BaselineConfig, build_baseline
from linfdist.data import DatasetInfo, ImageSet, to_pixels
from linfdist.evaluation import clean_and_certified, evaluate
from linfdist.nn import NetConfig, Normalize, build_net, reestimate_mean_shift
from linfdist.robust import (
    exact_radius,
    interval_certified,
    interval_radius,
    margin_radius,
    pgd,
    sound_certified,
)
from linfdist.robust.checks import check_finite
from linfdist.robust.losses import HingeLoss, IBPLoss
from linfdist.training import BoundTrainConfig, TrainConfig, checkpoint, fit
from linfdist.training.checkpoint import CheckpointError
from linfdist.training.recipe import recipe_of

pytestmark = pytest.mark.quick

STD = 0.3758  # bfloat16 makes 0.375 of it
MEAN = (0.4, 0.6)
CONSTANTS = ("features.normalize.mean", "features.normalize.divisor")
NET = NetConfig(kind="net", hidden=(12,))
MLP = NetConfig(kind="net_mlp", hidden=(12,), mlp_hidden=6)
EPOCHS = {"epochs": (1, 0, 0), "batch_size": 8}


def net_of(config=NET, mean=MEAN, std=STD, seed=0):
    torch.manual_seed(seed)
    net = build_net(config, input_shape=(2, 4, 4), num_classes=3, mean=mean, std=std)
    reestimate_mean_shift(net, [torch.rand(64, 2, 4, 4)])
    return net.eval()


def groupsort(std=STD):
    torch.manual_seed(0)
    config = BaselineConfig(kind="groupsort", width=1 / 64)
    return build_baseline(config, input_shape=(2, 4, 4), num_classes=3, mean=MEAN, std=std)


def recorded_before(net):
    """The net's state dict without the constants."""
    return {name: value for name, value in net.state_dict().items() if name not in CONSTANTS}


def images_of(net, number=24):
    images = torch.randint(0, 256, (number, 2, 4, 4)).to(torch.uint8)
    labels = copy.deepcopy(net).eval()(to_pixels(images)).argmax(1)
    info = DatasetInfo(
        name="noise",
        title="Noise",
        input_shape=(2, 4, 4),
        num_classes=3,
        mean=MEAN,
        std=STD,
        eps=Fraction(1, 50),
    )
    return ImageSet(images, labels, info)


# --- one number ----------------------------------------------------------------------------------

CHANGES = {
    "bfloat16 and back": lambda net: net.bfloat16().float(),
    "half and back": lambda net: net.half().float(),
    "double": lambda net: net.double(),
    "filled": lambda net: (
        net.features[0].divisor.fill_(0.05)
        if isinstance(net.features, torch.nn.Sequential)
        else net.features.normalize.divisor.fill_(0.05)
    ),
}


def normalize_of(net):
    return next(layer for layer in net.modules() if isinstance(layer, Normalize))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", [net_of, groupsort])
def test_the_constant_of_every_certificate_is_that_of_forward(make, change):
    net = make()
    CHANGES[change](net)
    divisor = float(normalize_of(net).divisor)
    assert net.lipschitz == 1 / divisor
    test = images_of(net.float())
    pixels = to_pixels(test.images)
    logits = net.eval()(pixels).double().sort(1, descending=True).values
    margin = (logits[:, 0] - logits[:, 1]) / 2
    radius = margin_radius(net, pixels, test.labels)
    assert torch.equal(radius, margin / (1 / divisor))
    eps = Fraction(float(radius.median())) * Fraction(1001, 1000)
    _, certified = clean_and_certified(net, test, eps=eps)
    assert certified == pytest.approx(float((radius > float(eps)).double().mean()), abs=1e-9)
    _, table = evaluate(net, test, eps)
    assert table["certified_margin"].tolist() == (radius > float(eps)).tolist()


def test_the_margin_radius_is_true_after_a_cast_and_back():
    """An attack may not succeed within it; the constant of before was off by 0.2 %."""
    for seed in range(3):
        net = net_of(seed=seed).bfloat16().float()
        test = images_of(net, 8)
        pixels = to_pixels(test.images)
        radius = margin_radius(net, pixels, test.labels)
        for row in range(3):
            found = exact_radius(
                net, pixels[row], int(test.labels[row]), tolerance=1e-4, max_nodes=300
            )
            assert radius[row] <= found.upper + 2e-6


def test_a_filled_divisor_gives_no_false_margin_certificate():
    net = net_of()
    net.features.normalize.divisor.fill_(0.05)
    test = images_of(net, 64)
    pixels = to_pixels(test.images)
    sure = margin_radius(net, pixels, test.labels) > 0.01
    sure |= interval_certified(net, pixels, test.labels, 0.01)
    attack = pgd(net, pixels, test.labels, 0.01, generator=torch.Generator().manual_seed(0))
    assert sure.any() and attack.survived[sure].all()


@pytest.mark.parametrize("config", [NET, MLP], ids=lambda config: config.kind)
def test_training_s_radius_is_in_the_units_of_forward(config):
    """The hinge's threshold, and the eps of the interval bounds, over the divisor."""
    loss = (
        HingeLoss(threshold=Fraction(1, 10))
        if config is NET
        else IBPLoss(eps_train=Fraction(1, 10), kappa=0.0)
    )
    train = TrainConfig(loss=loss, **EPOCHS)
    found = []
    for divisor in (0.05, 0.5):
        net = net_of(config)
        net.features.normalize.divisor.fill_(divisor)
        objective = recipe_of(train, net).objective
        x, labels = torch.rand(8, 2, 4, 4), torch.arange(8) % 3
        value, logits = objective(x, labels, math.inf, 0.1)
        if config is NET:
            margins = logits - logits.gather(1, labels[:, None]) + 0.1 / divisor
            worst = margins.scatter(1, labels[:, None], 0.0).amax(1).clamp_min(0).mean()
        else:
            features = net.features(x)
            box = features - 0.1 / divisor, features + 0.1 / divisor
            margins = net.worst_case_margins(*box, labels)
            worst = torch.nn.functional.cross_entropy(margins, labels)
        assert value.item() == pytest.approx(worst.item(), rel=1e-4)
        found.append(objective.lipschitz)
    assert found == [1 / float(torch.tensor(divisor)) for divisor in (0.05, 0.5)]


def test_groupsort_s_threshold_is_in_the_units_of_forward():
    net = groupsort()
    net.features[0].divisor.fill_(0.05)
    config = BoundTrainConfig(
        epochs=(1, 0, 0), bound="hinge", threshold=Fraction(1, 10), eps_train=Fraction(0)
    )
    assert recipe_of(config, net).objective.lipschitz == 1 / float(torch.tensor(0.05))


# --- what it may be ------------------------------------------------------------------------------


def test_numbers_of_numpy_are_numbers():
    mean = tuple(np.array([[0.25, 0.5]]).mean(0))
    layer = Normalize(mean, np.float64(0.3))
    assert layer.mean.dtype is layer.divisor.dtype is torch.float32
    assert layer(torch.zeros(1, 2, 3, 3)).dtype is torch.float32
    assert Normalize((0, 1), np.float32(1)).mean.dtype is torch.float32
    assert Normalize(np.array([0.25]), torch.tensor(0.3)).mean.shape == (1, 1, 1)
    net = net_of(mean=mean, std=np.float32(0.25))
    assert net(torch.rand(2, 2, 4, 4)).dtype is torch.float32 and net.lipschitz == 4


def test_the_dtype_is_torch_s_default():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        layer = Normalize((0.1,), 0.3)
    finally:
        torch.set_default_dtype(before)
    assert layer.mean.dtype is torch.float64 and layer.lipschitz == 1 / 0.3


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, 1e-60])
def test_a_std_that_cannot_divide_is_refused(std):
    with pytest.raises(ValueError, match="Normalize: std must be positive; got"):
        Normalize((0.5,), std)


def test_what_is_no_number_is_named():
    for std in ((0.2, 0.2, 0.2), None, "0.3", torch.ones(3)):
        with pytest.raises(TypeError, match="Normalize: std must be a number; got"):
            Normalize((0.5,), std)
    with pytest.raises(TypeError, match="Normalize: mean must be a number per channel; got None"):
        Normalize((None,), 0.5)
    with pytest.raises(ValueError, match=r"mean must be finite; got \[nan\]"):
        Normalize((math.nan,), 0.5)


# --- state dicts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["net", "net_mlp", *small_baselines.WIDTHS])
def test_the_state_dict_of_every_network_carries_the_constants(kind):
    if kind in small_baselines.WIDTHS:
        net = small_baselines.small(kind)
    else:
        net = net_of(NET if kind == "net" else MLP)
    names = [name.rpartition(".")[2] for name in net.state_dict()]
    assert names.count("mean") == names.count("divisor") == 1
    saved = io.BytesIO()
    torch.save(net.state_dict(), saved)
    saved.seek(0)
    copy.deepcopy(net).load_state_dict(torch.load(saved, weights_only=True))


def test_a_state_dict_of_before_gives_the_constructor_s_constants():
    net, other = net_of(), net_of(seed=1)
    other.features.normalize.divisor.fill_(7.0)
    other.features.normalize.mean.fill_(7.0)
    message = other.load_state_dict(recorded_before(net))
    assert not message.missing_keys and not message.unexpected_keys
    for name, value in other.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("make", [net_of, groupsort])
def test_weights_of_another_mean_or_std_are_refused_by_name(make, strict):
    net = make(std=0.25)
    state = make(std=0.5).state_dict()
    before = {name: value.clone() for name, value in net.state_dict().items() if "norm" in name}
    with pytest.raises(RuntimeError, match=r"divisor must be 0\.25, .* holds 0\.5\. Build"):
        net.load_state_dict(state, strict=strict)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    if make is net_of:
        with pytest.raises(RuntimeError, match=r"mean must be 0\.25, 0\.5, .* holds 0\.5, 0\.5\."):
            net_of(mean=(0.25, 0.5)).load_state_dict(net_of(mean=(0.5, 0.5)).state_dict())


def test_half_of_the_constants_is_a_missing_key():
    net = net_of()
    state = net.state_dict()
    del state[CONSTANTS[0]]
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict(state)


def test_casts_of_the_same_constants_are_the_same():
    state = net_of().state_dict()
    for cast in (torch.Tensor.double, torch.Tensor.bfloat16, torch.Tensor.half):
        net_of().load_state_dict({name: cast(value) for name, value in state.items()})
    for make in (lambda: net_of().double(), lambda: net_of().bfloat16()):
        make().load_state_dict(make().state_dict())
    rounded = net_of().bfloat16().float()
    rounded.load_state_dict(copy.deepcopy(rounded.state_dict()))  # what it has
    rounded.load_state_dict(state)  # what it was built with
    assert rounded.lipschitz == net_of().lipschitz
    with pytest.raises(RuntimeError, match=r"divisor must be 0\.375800014.* holds 0\.375\."):
        net_of().load_state_dict(net_of().bfloat16().float().state_dict())
    with pytest.raises(RuntimeError, match="divisor must be"):
        wrong = state | {CONSTANTS[1]: torch.tensor([0.5])}  # torch takes a shape (1,) for ()
        net_of().load_state_dict(wrong)


# --- no values -----------------------------------------------------------------------------------


def on_meta(make=net_of):
    with torch.device("meta"):
        config = NET if make is net_of else BaselineConfig(kind="groupsort", width=1 / 64)
        build = build_net if make is net_of else build_baseline
        return build(config, input_shape=(2, 4, 4), num_classes=3, mean=MEAN, std=STD).eval()


@pytest.mark.parametrize("old", [False, True], ids=["new", "recorded before"])
@pytest.mark.parametrize("how", ["to_empty", "assign", "assign of double"])
def test_a_net_from_meta_ends_with_the_right_constants(how, old):
    whole = net_of()
    state = recorded_before(whole) if old else whole.state_dict()
    net = on_meta()
    assert "std=0.3758" in repr(net)
    if how == "to_empty":
        net.to_empty(device="cpu").load_state_dict(state)
    else:
        if "double" in how:
            state = {name: value.double() for name, value in state.items()}
        net.load_state_dict(state, assign=True)
    if how != "assign of double":
        test = images_of(whole)
        pixels = to_pixels(test.images)
        assert torch.equal(net(pixels), whole(pixels))
        expected = margin_radius(whole, pixels, test.labels)
        assert torch.equal(margin_radius(net, pixels, test.labels), expected)
    net.features.normalize.divisor.data.fill_(0.05)  # the next net's are not this one's
    assert float(on_meta().to_empty(device="cpu").features.normalize._built["divisor"]) > 0.3
    net.load_state_dict(recorded_before(whole))
    assert net.lipschitz == whole.lipschitz


def entries(net, images, labels):
    pixels = to_pixels(images)
    yield lambda: net(pixels)
    yield lambda: margin_radius(net, pixels, labels)
    yield lambda: interval_certified(net, pixels, labels, 0.1)
    yield lambda: interval_radius(net, pixels, labels, 0.1)
    yield lambda: sound_certified(net, images, labels, 0.1)
    yield lambda: exact_radius(net, pixels[0], 0)
    yield lambda: pgd(net, pixels, labels, 0.1)
    test = ImageSet(images, labels, images_of(net_of(), 1).info)
    yield lambda: evaluate(net, test, Fraction(1, 10))
    yield lambda: clean_and_certified(net, test, eps=Fraction(1, 10))
    config = TrainConfig(loss=HingeLoss(threshold=Fraction(1, 10)), **EPOCHS)
    yield lambda: fit(net, test, config, seed=0, progress=False)


@pytest.mark.parametrize("of_meta", [True, False])
def test_memory_without_values_is_refused_everywhere(of_meta):
    net = on_meta() if of_meta else net_of()
    net.to_empty(device="cpu")
    torch.nn.init.normal_(net.last.weight)
    images, labels = torch.zeros(4, 2, 4, 4, dtype=torch.uint8), torch.zeros(4).long()
    for entry in entries(net, images, labels):
        with pytest.raises(
            RuntimeError, match=r"hold values; net\.to_empty left its memory uninit"
        ):
            entry()
    net.load_state_dict(recorded_before(net_of()))
    assert net(to_pixels(images)).isfinite().all()
    net.to_empty(device="cpu").features.normalize.reset_parameters()
    assert net.lipschitz == net_of().lipschitz


def test_a_net_on_meta_is_refused_by_name():
    pixels, labels = torch.rand(2, 2, 4, 4), torch.zeros(2).long()
    for certificate in (margin_radius, lambda *given: interval_certified(*given, 0.1)):
        with pytest.raises(ValueError, match=r"on the device meta, which holds no values\. Ca"):
            certificate(on_meta(), pixels, labels)


def test_a_move_or_a_cast_keeps_the_values():
    net = net_of()
    for moved in (net.double(), net.float(), net.to("cpu"), net.share_memory(), net.half()):
        check_finite(moved, "test")


def test_every_buffer_must_be_finite():
    net = net_of()
    net.features.layers[1].distance.mean = torch.tensor(math.nan)  # outside of the state dict
    with pytest.raises(ValueError, match=r"weights must be finite; features\.layers\.1\.distance"):
        check_finite(net, "test")
    for value in (math.nan, math.inf, 0.0, -0.3):
        net = net_of()
        net.features.normalize.divisor.fill_(value)
        test = images_of(net_of(), 4)
        with pytest.raises(ValueError, match=r"must divide by one positive number|must be finite"):
            margin_radius(net, to_pixels(test.images), test.labels)
        if not value > 0:
            with pytest.raises(ValueError, match="one positive number; got"):
                clean_and_certified(net, test, eps=Fraction(1, 10))
    net.features.normalize.divisor = torch.full((2, 1, 1), 0.3)
    with pytest.raises(ValueError, match="one positive number; got"):
        check_finite(net, "test")


# --- checkpoints --------------------------------------------------------------------------------


def test_a_checkpoint_without_the_constants_is_refused(tmp_path):
    """Weights files recorded before the constants were in them are taken; checkpoints are not."""
    path = tmp_path / "c"
    config = TrainConfig(loss=HingeLoss(threshold=Fraction(1, 10)), epochs=(2, 1, 1), batch_size=8)
    test = images_of(net_of())
    fit(net_of(), test, config, seed=0, checkpoint=path, stop_after_steps=4, progress=False)
    content = torch.load(path, weights_only=True)
    for name in CONSTANTS:
        del content["state"]["net"][name]
    checkpoint.save(path, json.loads(content["fingerprint"]), content["state"])
    with pytest.raises(
        CheckpointError, match="its network must hold exactly the network's entries; it lacks"
    ):
        fit(net_of(), test, config, seed=0, checkpoint=path, progress=False)


def test_the_fingerprint_names_what_forward_divides_by(tmp_path):
    path = tmp_path / "c"
    config = TrainConfig(loss=HingeLoss(threshold=Fraction(1, 10)), epochs=(2, 1, 1), batch_size=8)
    net = net_of()
    test = images_of(net)
    fit(net, test, config, seed=0, checkpoint=path, stop_after_steps=2, progress=False)
    other = net_of().bfloat16().float()
    with pytest.raises(RuntimeError, match=r"std: 0\.3758 there, 0\.375 here"):
        fit(other, test, config, seed=0, checkpoint=path, progress=False)
