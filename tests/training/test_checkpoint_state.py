"""What a checkpoint says is compared with its run before anything of the network is changed."""

import copy
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from helpers.dots import CONFIG, IBP, MLP, NET, TRAIN, fresh, same

from linfdist.baselines import BaselineConfig
from linfdist.testing import faults
from linfdist.training import BoundTrainConfig, LayerwiseTrainConfig, fit
from linfdist.training import checkpoint as checkpoints
from linfdist.training import state as training_state
from linfdist.training.checkpoint import CheckpointConfig, CheckpointError
from linfdist.training.state import TrainingState

BOUND = BoundTrainConfig(
    epochs=(1, 2, 2), bound="ibp", eps_train=Fraction(1, 10), batch_size=16, lr=1e-3
)
COLT = LayerwiseTrainConfig(
    epochs=(2, 2, 1), mix_epochs=1, eps_train=Fraction(1, 20), batch_size=16, attack_steps=2
)
MATCHED = replace(CONFIG, smoothing="matched_lse", p_end=60.0)
CASES = {
    "net": (NET, CONFIG),
    "mlp": (MLP, replace(CONFIG, loss=IBP)),
    "smoothed": (NET, MATCHED),
    "mlp, clean loss alone": (MLP, replace(CONFIG, loss=replace(IBP, kappa=1.0))),
    "mlp, worst case alone": (MLP, replace(CONFIG, loss=replace(IBP, kappa=0.0))),
    "bounds": (BaselineConfig(kind="dm_medium", width=1 / 16), BOUND),
    "batch norm": (BaselineConfig(kind="cnn7_bn", width=1 / 32), BOUND),
    "pvt": (BaselineConfig(kind="pvt", width=1 / 8), replace(BOUND, bound="pvt")),
    "cap": (BaselineConfig(kind="cap", width=1 / 8), replace(BOUND, bound="cap")),
    "groupsort": (
        BaselineConfig(kind="groupsort", width=0.01),
        replace(BOUND, bound="hinge", threshold=Fraction(1, 10), eps_train=Fraction(0)),
    ),
    "colt": (BaselineConfig(kind="colt", width=1 / 16), COLT),
    "colt without momentum": (
        BaselineConfig(kind="colt", width=1 / 16),
        replace(COLT, momentum=0.0),
    ),
}
EACH = pytest.mark.parametrize("case", CASES)


def stopped(case, path, steps):
    """A run's checkpoint after so many of its 20 steps, and what is in it."""
    net_config, config = CASES[case]
    given = {"seed": 3, "checkpoint": path, "progress": False}
    fit(fresh(net_config), TRAIN, config, stop_after_steps=steps, **given)
    content = torch.load(path, weights_only=True)
    return content["state"]


def go_on(case, path, state):
    """Resume from this state, written with a right checksum; the network must be as it was."""
    net_config, config = CASES[case]
    fingerprint = TrainingState(fresh(net_config), TRAIN, config, 3, None, "cpu").fingerprint
    checkpoints.save(path, fingerprint, state)
    before, net, untouched = path.read_bytes(), fresh(net_config), fresh(net_config)
    try:
        rows = fit(net, TRAIN, config, seed=3, checkpoint=path, progress=False, stop_after_steps=1)
    except CheckpointError:
        assert same(net, untouched), "a refused checkpoint changed the network"
        assert path.read_bytes() == before
        raise
    return rows


@EACH
@pytest.mark.parametrize("after", [1, 4, 7, 8, 20])
def test_a_run_s_own_checkpoint_passes(tmp_path, case, after):
    """In every phase, for every kind of network, loss and optimizer."""
    state = stopped(case, tmp_path / "c", after)
    assert state["step"] == after and len(state["rows"]) == after // 4
    assert len(go_on(case, tmp_path / "c", state)) == min(after + 1, 20) // 4


NONSENSE = (
    *(None, True, "a", -5, 2.5, 10**9, math.nan, math.inf, [], {}),
    *(torch.zeros(()), torch.zeros(7), torch.zeros((), dtype=torch.int64), torch.tensor(math.nan)),
)
# What a run measured can be another number of its range.
MEASURED = {"train_loss", "seconds", "test_accuracy", "test_certified"}


def leaves(value, path=()):
    """The place of everything in nested dictionaries and lists, the containers too."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value.keys() if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


def changed(state, path, value):
    state = copy.deepcopy(state)
    owner = state
    for key in path[:-1]:
        owner = owner[key]
    owner[path[-1]] = value
    return state


def equal(one, other):
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and not isinstance(one, torch.Tensor) and one == other


def at(state, path):
    for key in path:
        state = state[key]
    return state


@pytest.mark.parametrize("case", ["net", "smoothed", "bounds", "colt"])
def test_nonsense_anywhere_in_a_checkpoint_is_named(tmp_path, monkeypatch, case):
    state, tried = stopped(case, tmp_path / "c", 6), 0
    net_config, config = CASES[case]
    net, untouched = fresh(net_config), fresh(net_config)
    file = CheckpointConfig(tmp_path / "c")
    run = TrainingState(net, TRAIN, config, 3, None, "cpu", checkpoint=file)
    for path in leaves({key: part for key, part in state.items() if key != "environments"}):
        if path[:2] == ("optimizer", "param_groups") and len(path) > 3 and path[3] != "params":
            continue  # the configuration's are used
        for value in NONSENSE:
            if equal(value, at(state, path)) or is_possible(path, value):
                continue
            forged = changed(state, path, value)
            monkeypatch.setattr(checkpoints, "load", lambda *_, forged=forged: forged)
            with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
                run.load()
            tried += 1
    assert same(net, untouched) and run.step == 0 and run.rows == []
    assert (
        tried >= faults.get("a checkpoint with a correct checksum and nonsense inside").times // 4
    )


def is_possible(path, value):
    """Whether it may be what a run measured, or what a layer holds before the first measurement."""
    name = path[-1]
    if name == "correct":
        return isinstance(value, torch.Tensor) and value.dtype == torch.int64
    if path[0] == "mean_distances" and len(path) > 1:
        return value is None
    if name not in MEASURED or isinstance(value, bool | torch.Tensor):
        return False
    if value is None:
        return name.startswith("test")
    most = math.inf if name in ("train_loss", "seconds") else 1
    return isinstance(value, int | float) and 0 <= value <= most and value < math.inf


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("step",), 10**9, r"its step must be in 0\.\.20, the run's steps; it is 1000000000"),
        (("step",), -5, "it is -5"),
        (("step",), 2.5, r"it is 2\.5"),
        (("step",), "a", "it is 'a'"),
        (("step",), None, "it is None"),
        (
            ("step",),
            20,
            "its rows must number 5, one for each epoch that ended by step 20; it has 1",
        ),
        (("step",), 5, r"parameter 0: step must be 5, the number of steps done; it is tensor\(6"),
        (("rows",), "x", "its rows must number 1, .*; it has 'x'"),
        (("rows",), [], "its rows must number 1, .*; it has 0"),
        (("rows", 0), {"epoch": 1}, "its row of epoch 1 must hold epoch, p, .*; it holds epoch"),
        (("rows", 0, "epoch"), 2, "its row of epoch 1 must have that number; it has 2"),
        (("rows", 0, "p"), 9.0, r"its row of epoch 1: p must be 8\.0; it is 9\.0"),
        (("rows", 0, "eps_train"), 0.1, r"eps_train must be None; it is 0\.1"),
        (("rows", 0, "train_accuracy"), 1.5, "train_accuracy must be a number from 0 to 1"),
        (("loss_sum",), torch.tensor(-1.0, dtype=torch.float64), "loss_sum must be a finite"),
        (("loss_sum",), torch.zeros(2, dtype=torch.float64), r"float64 of shape \(2,\)"),
        (("correct",), torch.tensor(33), r"in 0\.\.32, the images of the epoch's 2 batches"),
        (("seconds",), -1.0, r"its seconds must be a number from 0 to inf; it is -1\.0"),
        (("optimizer", "state", 0), {}, "parameter 0 must hold step, exp_avg, exp_avg_sq"),
        (("optimizer", "state", 9), {}, r"must belong to parameters 0\.\.3"),
        (("optimizer", "state", 0, "exp_avg"), torch.zeros(12, 40), r"of shape \(12, 36\)"),
        (("optimizer", "state", 0, "exp_avg_sq"), -torch.ones(12, 36), "exp_avg_sq must be finite"),
        (("net", "last.bias"), torch.zeros(1, 3).double(), "must be torch.float32 of shape"),
        (("net", "last.bias"), torch.zeros(3, dtype=torch.complex64), "it is torch.complex64"),
        (("net", "last.bias"), torch.tensor([0, math.nan, 0]), "last.bias holds NaN"),
        (("net", "other"), torch.zeros(3), r"adds \['other'\]"),
    ],
)
def test_the_error_says_what_is_wrong(tmp_path, path, value, message):
    state = stopped("net", tmp_path / "c", 6)
    if path == ("net", "last.bias"):
        value = value.reshape(state["net"]["last.bias"].shape)
    with pytest.raises(CheckpointError, match=message):
        go_on("net", tmp_path / "c", changed(state, path, value))


@pytest.mark.parametrize("key", ["step", "net", "mean_distances", "optimizer", "rows", "seconds"])
def test_a_missing_part_is_named(tmp_path, key):
    state = stopped("net", tmp_path / "c", 6)
    del state[key]
    with pytest.raises(CheckpointError, match=r"its state must hold step, net, .*; it holds"):
        go_on("net", tmp_path / "c", state)


def test_permuted_moments_are_refused(tmp_path):
    state = stopped("net", tmp_path / "c", 6)
    moments = state["optimizer"]["state"]
    moments[0], moments[2] = moments[2], moments[0]
    with pytest.raises(CheckpointError, match="its optimizer's state of parameter 0: exp_avg"):
        go_on("net", tmp_path / "c", state)
    moments[0], moments[2] = moments[2], moments[0]
    groups = state["optimizer"]["param_groups"]
    groups[0]["params"] = groups[0]["params"][::-1]
    with pytest.raises(CheckpointError, match="this run's groups of parameters, in their order"):
        go_on("net", tmp_path / "c", state)


def test_the_settings_of_the_optimizer_are_the_configuration_s(tmp_path):
    """A file that says another weight decay changes nothing."""
    path, whole, again = tmp_path / "c", fresh(), fresh()
    fit(whole, TRAIN, CONFIG, seed=3, progress=False)
    state = stopped("net", path, 6)
    state["optimizer"]["param_groups"][0] |= {"weight_decay": 5.0, "betas": (0.0, 0.0)}
    go_on("net", path, state)
    fit(again, TRAIN, CONFIG, seed=3, checkpoint=path, progress=False)
    assert same(again, whole)


@pytest.mark.parametrize("version", [0, 1, "2", None, 3])
def test_a_checkpoint_without_a_checksum_is_refused_whatever_it_says_of_its_format(
    tmp_path, version
):
    """Replaced weights would pass for trained ones."""
    path = tmp_path / "c"
    state = stopped("net", path, 6)
    content = torch.load(path, weights_only=True) | {"format": version}
    torch.save(content, path)
    net = fresh()
    with pytest.raises(CheckpointError, match=r"must have format 2; got .*delete it or pass rest"):
        fit(net, TRAIN, CONFIG, seed=3, checkpoint=path, progress=False)
    with pytest.raises(CheckpointError, match="must have format 2"):
        checkpoints.environments(path)
    torch.save(content | {"format": 2, "state": state}, path)
    with pytest.raises(CheckpointError, match="its checksum is missing"):
        fit(net, TRAIN, CONFIG, seed=3, checkpoint=path, progress=False)
    assert same(net, fresh())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.31,)}, r"mean: \[0\.3\d*\] there, \[0\.31\d*\] here"),
        ({"std": 0.41}, r"std: 0\.4 there, 0\.41 here"),
        ({"name": "others"}, r"data\.name: 'dots' there, 'others' here"),
    ],
)
def test_a_checkpoint_of_other_constants_of_the_data_is_refused(tmp_path, change, message):
    path, info = tmp_path / "c", replace(TRAIN.info, **change)
    stopped("net", path, 6)
    with pytest.raises(CheckpointError, match=f"must belong to this run; it differs in {message}"):
        fit(fresh(info=info), replace(TRAIN, info=info), CONFIG, seed=3, checkpoint=path)


def test_an_epoch_s_seconds_are_those_of_all_its_calls(tmp_path, monkeypatch):
    """A second passes for every step, in the call before as in this one."""
    now, step = [0.0], TrainingState.train_step

    def slow(run):
        now[0] += 1.0
        step(run)

    clock = type("Clock", (), {"monotonic": staticmethod(lambda: now[0])})
    monkeypatch.setattr(training_state, "time", clock)
    monkeypatch.setattr(TrainingState, "train_step", slow)
    stopped("net", tmp_path / "c", 6)
    now[0] += 1000.0  # between the calls
    rows = fit(fresh(), TRAIN, CONFIG, seed=3, checkpoint=tmp_path / "c", progress=False)
    assert [row["seconds"] for row in rows] == [4.0] * 5
