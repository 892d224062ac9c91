"""Certificates and attacks are of float32 as IEEE 754 has it, whatever torch is told to use."""

import contextlib
import threading
from fractions import Fraction

import pytest
import torch
from helpers import small_baselines
from helpers.threads import one_thread
from torch import nn

from linfdist.data import DatasetInfo, ImageSet, to_pixels
from linfdist.evaluation import clean_and_certified, evaluate, sound_columns
from linfdist.nn import LogSumExp, NetConfig, build_net, frozen, reestimate_mean_shift
from linfdist.ops.precision import _KNOBS, ieee_float32, matmul_precision
from linfdist.robust import (
    attacked_radius,
    exact_radius,
    guided_pgd,
    interval_certified,
    interval_radius,
    margin_radius,
    pgd,
    sound_certified,
    sound_radius,
    square_attack,
    strongest,
)
from linfdist.robust.attacks.ensemble import CONVENTIONAL, GUIDED
from linfdist.robust.losses import IBPLoss
from linfdist.training import BoundTrainConfig, TrainConfig, fit

EPS = Fraction(1, 50)
NET = NetConfig(kind="net", hidden=(16, 16))
MLP = NetConfig(kind="net_mlp", hidden=(16, 16), mlp_hidden=64)
CONV = NetConfig(kind="conv_net_mlp", hidden=(16,), mlp_hidden=64, channels=((4, 1),))
SHAPE = (1, 4, 4)


def dist_net(config):
    torch.manual_seed(1)
    net = build_net(config, input_shape=SHAPE, num_classes=3, mean=(0.5,), std=0.3)
    reestimate_mean_shift(net, [torch.rand(256, *SHAPE)])
    return net


def baseline(kind):
    return small_baselines.small(kind).float()


NETS = {
    **{config.kind: lambda config=config: dist_net(config) for config in (NET, MLP, CONV)},
    **{kind: lambda kind=kind: baseline(kind) for kind in ("dm_medium", "cap", "groupsort")},
}


def batch(net, number=12):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (number, *net.input_shape), generator=generator)
    images = images.to(torch.uint8)
    with frozen(net) as still, torch.no_grad():
        return images, still(to_pixels(images)).argmax(1)


def noise_info(net):
    return DatasetInfo(
        name="noise",
        title="Noise",
        input_shape=net.input_shape,
        num_classes=net.num_classes,
        mean=(0.5,) * net.input_shape[0],
        std=0.3,
        eps=EPS,
    )


def answers(net):
    """What every entry point says of a batch."""
    images, labels = batch(net)
    x = to_pixels(images)
    found = {}
    test = ImageSet(images, labels, noise_info(net))
    metrics, table = evaluate(net, test, EPS, batch_size=8)
    found["evaluate"] = str(metrics) + table.to_csv()
    found["watched"] = clean_and_certified(net, test, eps=EPS)
    found["certified"] = interval_certified(net, x, labels, EPS)
    found["radius"] = interval_radius(net, x, labels, 0.2, eps=EPS)

    def generator():
        return torch.Generator().manual_seed(5)

    found["pgd"] = vars(pgd(net, x, labels, EPS, generator=generator()))
    found["square"] = vars(
        square_attack(net, x, labels, EPS, num_queries=20, generator=generator())
    )
    guide = 8.0 if hasattr(net, "config") and isinstance(net.config, NetConfig) else float("inf")
    found["guided"] = vars(
        guided_pgd(net, x, labels, EPS, guide=guide, num_steps=5, generator=generator())
    )
    names = ("pgd_20", "guided_inf") if guide != 8.0 else ("pgd_20", "guided_lse")
    some = {name: (GUIDED if guide == 8.0 else CONVENTIONAL)[name] for name in names}
    found["strongest"] = vars(strongest(net, x, labels, EPS, attacks=some, generator=generator()))
    found["attacked"] = attacked_radius(
        net, x[:4], labels[:4], [0.05], attacks=some, generator=generator()
    )
    if hasattr(net, "lipschitz"):
        found["margin"] = margin_radius(net, x, labels)
    if guide == 8.0:
        found["lse"] = clean_and_certified(net, test, eps=EPS, p=LogSumExp(4.0))
        found["sound"] = sound_certified(net, images, labels, EPS)
        found["sound radius"] = sound_radius(net, images, labels, found["radius"])
        found["recertified"] = sound_columns(
            net, images, labels, EPS, found["radius"], found["certified"]
        )
    if isinstance(getattr(net, "config", None), NetConfig) and net.config.kind == "net":
        found["exact"] = vars(exact_radius(net, x[0], int(labels[0]), max_nodes=10))
    return found


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return first == second


@contextlib.contextmanager
def knob(backend, value):
    before = backend.fp32_precision
    backend.fp32_precision = value
    try:
        yield
    finally:
        backend.fp32_precision = before


@contextlib.contextmanager
def old_setting(name):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast for another device too": lambda: both_autocasts(),
    "the old setting": lambda: old_setting("medium"),
    "products of oneDNN": lambda: knob(torch.backends.mkldnn.matmul, "bf16"),
    "convolutions of oneDNN": lambda: knob(torch.backends.mkldnn.conv, "bf16"),
    "all backends": lambda: knob(torch.backends, "bf16"),
}


@contextlib.contextmanager
def both_autocasts():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = torch.is_autocast_enabled("cuda")
        torch.set_autocast_enabled("cuda", True)
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", before)


@pytest.fixture(scope="module", autouse=True)
def tiny_networks():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def expected():
    return {name: answers(make()) for name, make in NETS.items()}


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *((name, "autocast") for name in NETS),
        *(("net_mlp", setting) for setting in SETTINGS if setting != "autocast"),
        *(("dm_medium", setting) for setting in SETTINGS if "oneDNN" in setting),
    ],
)
def test_every_answer_is_that_of_float32(name, setting, expected):
    net = NETS[name]()
    with SETTINGS[setting]():
        found = answers(net)
    assert found.keys() == expected[name].keys()
    assert [key for key in found if not same(found[key], expected[name][key])] == []


@pytest.mark.parametrize("setting", ["autocast", "all backends"])
@pytest.mark.parametrize("name", ["net_mlp", "dm_medium"])
def test_a_training_is_that_of_its_configuration(name, setting, tmp_path):
    """So a run that is resumed under autocast, or without it, ends with the same bits."""
    images, labels = batch(NETS[name]())
    if name == "dm_medium":
        config = BoundTrainConfig(
            epochs=(1, 1, 1), bound="ibp", eps_train=EPS, batch_size=4, kappa=(1, 0.5)
        )
    else:
        loss = IBPLoss(eps_train=EPS, kappa=0.5)
        config = TrainConfig(epochs=(1, 1, 1), loss=loss, batch_size=4)
    ended = []
    for told in (contextlib.nullcontext, SETTINGS[setting]):
        net, path = NETS[name](), tmp_path / "c"
        test = ImageSet(images, labels, noise_info(net))
        path.unlink(missing_ok=True)
        with told():
            fit(net, test, config, seed=0, checkpoint=path, stop_after_steps=4, progress=False)
        net = NETS[name]()
        rows = fit(net, test, config, seed=0, test=test, checkpoint=path, progress=False)
        ended.append((net.state_dict(), [row["train_loss"] for row in rows]))
    assert ended[0][1] == ended[1][1]
    assert all(torch.equal(ended[0][0][key], value) for key, value in ended[1][0].items())


def test_autocast_does_change_what_these_networks_compute():
    """Else the test above shows nothing."""
    for name in ("net_mlp", "conv_net_mlp", "dm_medium"):
        net = NETS[name]().eval()
        images, _ = batch(net)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            low = net(to_pixels(images)).float()
            with frozen(net) as still:
                assert torch.is_autocast_enabled("cpu") is False
                high = still(to_pixels(images))
        assert not torch.equal(low, high)


def state():
    return [knob.fp32_precision for knob in _KNOBS], torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_settings_are_as_they_were_afterwards(setting):
    with SETTINGS[setting]():
        before = state()
        with ieee_float32():
            assert state() == (["ieee"] * len(_KNOBS), False)
            assert torch.get_float32_matmul_precision() == "highest"
            with matmul_precision("medium"):  # the innermost counts
                assert torch.get_float32_matmul_precision() == "medium"
                assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
            assert state() == (["ieee"] * len(_KNOBS), False)
        assert state() == before
        with pytest.raises(EOFError), matmul_precision("high"):
            raise EOFError
        assert state() == before


def test_an_inherited_setting_stays_inherited():
    with ieee_float32():
        pass
    with knob(torch.backends, "bf16"):
        assert torch.backends.mkldnn.conv.fp32_precision == "bf16"
        with ieee_float32():
            assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
    assert torch.backends.mkldnn.conv.fp32_precision == "none"


def test_one_thread_that_leaves_does_not_take_float32_from_another():
    """The settings are the process's: the strictest thread's count, in whatever order they end."""
    inside, leave = threading.Event(), threading.Event()
    before, seen = state(), []

    def other():
        with ieee_float32():
            inside.set()
            leave.wait(10)
            seen.append(state()[0])

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with matmul_precision("medium"):  # of a training here: float32 meanwhile
        assert state()[0] == ["ieee"] * len(_KNOBS)
        with ieee_float32():
            pass
        leave.set()
        thread.join()
        assert torch.get_float32_matmul_precision() == "medium"
    assert seen == [["ieee"] * len(_KNOBS)] and state() == before


def test_convolutions_are_part_of_the_tested_networks():
    for name in ("dm_medium", "cap"):
        assert any(isinstance(module, nn.Conv2d) for module in NETS[name]().modules())
