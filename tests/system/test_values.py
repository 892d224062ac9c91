"""Arguments of calls: taken as plain Python values, or refused by name before anything is done."""

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dots import CONFIG, NET, TEST, TRAIN, fresh, same

from linfdist import data, evaluation, records
from linfdist.cli import parser
from linfdist.evaluation import accuracy, evaluate
from linfdist.experiments import attack, recertify, runner
from linfdist.experiments.batch import Batch, BatchError
from linfdist.records import environment
from linfdist.robust.attacks import ensemble
from linfdist.system.devices import DeviceError
from linfdist.training import CheckpointConfig, fit
from linfdist.training import checkpoint as checkpoints
from linfdist.training.checkpoint import CheckpointError
from linfdist.training.state import TrainingState

BAD_SEEDS = pytest.mark.parametrize(
    ("seed", "error", "message"),
    [
        (1.0, TypeError, r"seed must be a whole number; got 1\.0 \(float\)"),
        (np.float64(1), TypeError, "seed must be a whole number; got "),
        (True, TypeError, r"seed must be a whole number; got True \(bool\)"),
        (np.bool_(True), TypeError, "seed must be a whole number"),
        ("1", TypeError, r"seed must be a whole number; got '1' \(str\)"),
        (None, TypeError, "seed must be a whole number; got None"),
        (Fraction(1), TypeError, "seed must be a whole number"),
        (np.array([1, 2]), TypeError, "seed must be a whole number"),
        (-1, ValueError, "seed must be at least 0; got -1"),
        (2**63, ValueError, r"seed must be below 2\*\*63; got 9223372036854775808"),
    ],
)


@pytest.fixture
def nothing_trains(monkeypatch):
    monkeypatch.setattr(TrainingState, "train_step", None)


@BAD_SEEDS
def test_a_seed_that_cannot_be_saved_is_refused_before_the_first_step(
    tmp_path, nothing_trains, monkeypatch, seed, error, message
):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    with pytest.raises(error, match=f"fit: {message}"):
        fit(fresh(), TRAIN, CONFIG, seed=seed, checkpoint=tmp_path / "c")
    with pytest.raises(error, match=f"run: {message}"):
        runner.run("table1/mnist_net", scale="smoke", seed=seed)
    with pytest.raises(error, match=f"evaluate: {message}"):
        evaluate(fresh(), TEST, Fraction(1, 10), seed=seed)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, torch.tensor])
def test_an_integer_of_numpy_is_a_seed(tmp_path, kind):
    net, whole = fresh(), fresh()
    given = {"checkpoint": tmp_path / "c", "progress": False}
    fit(net, TRAIN, CONFIG, seed=kind(5), stop_after_steps=kind(7), **given)
    rows = fit(net, TRAIN, CONFIG, seed=5, **given)
    fit(whole, TRAIN, CONFIG, seed=5, progress=False)
    assert len(rows) == 5 and same(net, whole)


def test_a_run_with_a_seed_of_numpy_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    run = runner.run("table1/mnist_net", scale="smoke", seed=np.int64(5), progress=False)
    assert run.seed == 5 and run.path.name == "seed5"
    for bad in ({"images": 2.5}, {"certified": "3"}, {"each": 1}, {"seed": 1.0}):
        with pytest.raises(TypeError, match=f"attack_run: {next(iter(bad))} must be "):
            attack.attack_run(run, **bad)
    with pytest.raises(ValueError, match="attack_run: images must be at least 1; got 0"):
        attack.attack_run(run, images=0)
    odd = {"a": ensemble.AttackSetting("pgd", {"num_steps": {1}})}
    monkeypatch.setattr(attack, "survivors", None)
    with pytest.raises(TypeError, match="settings of attacks must be plain values, which can be s"):
        attack.attack_run(run, attacks=odd, progress=False)
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"recertify: batch_size must be at .*{bad}"):
            recertify.recertify(run, batch_size=bad)


@pytest.mark.parametrize("given", ["-1", "1.0", "true", "", "9223372036854775808", "1e3"])
@pytest.mark.parametrize("command", ["run x", "attack x", "session --seconds 9", "recertify x"])
def test_the_command_line_refuses_what_is_no_seed(capsys, command, given):
    with pytest.raises(SystemExit):
        parser().parse_args([*command.split(), "--seed", given])
    assert "--seed: must be " in capsys.readouterr().err


# --- what else is saved -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": Path("x")}, "CheckpointConfig: experiment must be text; got "),
        ({"experiment": None}, "CheckpointConfig: experiment must be text; got None"),
        (
            {"environments": [{"a": object()}]},
            "CheckpointConfig: environments must be plain values",
        ),
        (
            {"environments": [{"a": np.int64(1)}]},
            "CheckpointConfig: environments must be plain values",
        ),
        ({"environments": [3]}, "CheckpointConfig: environments must be dictionaries"),
    ],
)
def test_what_no_checkpoint_can_hold_is_refused_before_the_first_step(tmp_path, change, message):
    with pytest.raises(TypeError, match=message):
        CheckpointConfig(tmp_path / "c", **change)


def test_what_is_saved_is_read_again_without_code(tmp_path):
    """Floats of numpy and torch's version pass for float and str, but not when they are read."""
    path = tmp_path / "c"
    odd = [{"share": np.float64(0.5), "torch": torch.__version__, "pair": (1, 2)}]
    file = CheckpointConfig(path, environments=odd)
    fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=file, stop_after_steps=3)
    wanted = [{"share": 0.5, "torch": str(torch.__version__), "pair": [1, 2]}]
    assert checkpoints.environments(path) == wanted
    assert len(fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=path, progress=False)) == 5


def test_a_configuration_that_cannot_be_recorded_is_refused_before_training(
    tmp_path, nothing_trains, monkeypatch
):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    describe = environment.describe
    monkeypatch.setattr(environment, "describe", lambda device: describe(device) | {"a": {1}})
    with pytest.raises(TypeError, match="set"):
        runner.run("table1/mnist_net", scale="smoke", progress=False)
    assert records.find_runs() == []


# --- other arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"progress": "no"}, TypeError, "progress must be True or False"),
        ({"sync_mean_shift": None}, TypeError, "sync_mean_shift must be True or False"),
        ({"stop_after_steps": 0}, ValueError, "stop_after_steps must be at least 1; got 0"),
        ({"stop_after_steps": -3}, ValueError, "stop_after_steps must be at least 1; got -3"),
        ({"stop_after_steps": 2.0}, TypeError, "stop_after_steps must be a whole number"),
        ({"stop_after_steps": "2"}, TypeError, "stop_after_steps must be a whole number"),
        ({"seconds": "10"}, TypeError, "seconds must be a number of seconds or None; got '10'"),
        ({"seconds": True}, TypeError, "seconds must be a number of seconds or None; got True"),
        ({"seconds": [1]}, TypeError, "seconds must be a number of seconds or None"),
        ({"seconds": 0}, ValueError, "seconds must be above 0; got 0"),
        ({"checkpoint": 3}, TypeError, "checkpoint must be a path, as text or a Path; got 3"),
        ({"checkpoint": b"c"}, TypeError, "checkpoint must be a path, as text or a Path; got b'c'"),
        ({"checkpoint": "~nobody-here/c"}, ValueError, "home folder of ~nobody-here/c is unknown"),
        ({"config": {"epochs": 3}}, TypeError, "config must be a TrainConfig, .*; got dict"),
        ({"net": torch.nn.Linear(2, 2)}, TypeError, "net must be a network itself; got Linear"),
    ],
)
def test_fit_names_an_argument_of_another_type(tmp_path, nothing_trains, change, error, message):
    path = tmp_path / "c"
    path.write_bytes(b"kept")
    given = {"net": fresh(), "config": CONFIG, "seed": 0, "checkpoint": path} | change
    with pytest.raises(error, match=f"fit: .*{message}"):
        fit(train=TRAIN, **given)
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"restart": "false"}, TypeError, r"restart must be True or False; got 'false' \(str\)"),
        ({"restart": 0}, TypeError, "restart must be True or False; got 0"),
        ({"path": 3}, TypeError, "path must be a path, as text or a Path; got 3"),
        ({"path": "~nobody-here/c"}, ValueError, "home folder of ~nobody-here/c is unknown"),
    ],
)
def test_a_checkpoints_settings_of_another_type_are_named(tmp_path, change, error, message):
    with pytest.raises(error, match=f"CheckpointConfig: .*{message}"):
        CheckpointConfig(**({"path": tmp_path / "c"} | change))


def test_a_device_that_cannot_be_used_is_named(nothing_trains):
    for device in ("cuda:99", "gpu", 3.5):
        with pytest.raises((DeviceError, TypeError), match="device"):
            fit(fresh(), TRAIN, CONFIG, seed=0, device=device)


def test_a_checkpoint_may_be_given_as_text_and_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    settings = {"seed": 0, "progress": False}
    for given in ("text", "~/home", os.path.join("folder", "new"), tmp_path / "path"):
        fit(fresh(), TRAIN, CONFIG, checkpoint=given, stop_after_steps=3, **settings)
        assert len(fit(fresh(), TRAIN, CONFIG, checkpoint=given, **settings)) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"text", "home", "folder", "path"}


def test_a_folder_in_the_place_of_a_checkpoint_is_named(tmp_path):
    for restart in (False, True):
        with pytest.raises(CheckpointError, match=f"{tmp_path} must be a"):
            file = CheckpointConfig(tmp_path, restart=restart)
            fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=file)


def loaders():
    pixels = TRAIN.images.float() / 255
    dataset = torch.utils.data.TensorDataset(pixels, TRAIN.labels)
    return dataset, torch.utils.data.DataLoader(dataset), pixels, [(pixels, TRAIN.labels)]


@pytest.mark.parametrize("index", range(4), ids=["Dataset", "DataLoader", "Tensor", "list"])
def test_other_data_sets_are_named(nothing_trains, index):
    given = loaders()[index]
    kind = type(given).__name__
    eps = Fraction(1, 10)
    for what, call in {
        "fit: train": lambda: fit(fresh(), given, CONFIG, seed=0),
        "fit: test": lambda: fit(fresh(), TRAIN, CONFIG, seed=0, test=given),
        "evaluate: test": lambda: evaluate(fresh(), given, eps),
        "accuracy: images": lambda: accuracy(fresh(), given),
    }.items():
        with pytest.raises(
            TypeError, match=rf"{what} must be a linfdist\.data\.ImageSet; got {kind}"
        ):
            call()


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True, None])
def test_batch_sizes_of_evaluation_are_checked(size):
    """-1 gave an accuracy of 0."""
    for name, call in {
        "evaluate": lambda: evaluate(fresh(), TEST, Fraction(1, 10), batch_size=size),
        "accuracy": lambda: accuracy(fresh(), TEST, batch_size=size),
    }.items():
        with pytest.raises((ValueError, TypeError), match=f"{name}: batch_size must be a"):
            call()
    assert accuracy(fresh(), TEST, batch_size=np.int64(7)) == accuracy(fresh(), TEST)


@pytest.mark.parametrize("seconds", [True, math.inf, math.nan, 0, "10"])
def test_a_batch_refuses_seconds_that_are_none(seconds):
    with pytest.raises(BatchError, match="--config seconds must be a number above 0"):
        Batch.from_config({"seconds": seconds})


# --- torch's defaults ---------------------------------------------------------------------------


@pytest.fixture
def defaults():
    """Sets torch's default device and dtype, which are put back."""
    yield lambda device, dtype: (torch.set_default_device(device), torch.set_default_dtype(dtype))
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.float32), (None, torch.float64)])
@pytest.mark.parametrize("smoothing", ["lp", "matched_lse"])
def test_torch_s_defaults_change_nothing(tmp_path, defaults, device, dtype, smoothing):
    """Everything that meets tensors of the CPU is made there, in a dtype that is said."""
    from dataclasses import replace

    config = replace(CONFIG, smoothing=smoothing, p_end=60.0)
    eps, results = Fraction(1, 10), []
    nets = [fresh(NET), fresh(NET)]
    for net, default in zip(nets, ((None, torch.float32), (device, dtype)), strict=True):
        defaults(*default)
        path = tmp_path / f"c{len(results)}"
        given = {"seed": 0, "test": TEST, "checkpoint": path, "progress": False}
        fit(net, TRAIN, config, stop_after_steps=7, **given)
        rows = fit(net, TRAIN, config, **given)
        metrics, table = evaluate(net, TEST, eps, progress=False)
        results.append(([row["train_loss"] for row in rows], metrics, table))
    assert same(*nets)
    assert results[0][:2] == results[1][:2] and results[0][2].equals(results[1][2])
    assert evaluation.accuracy(nets[0], TEST) == evaluation.accuracy(nets[1], TEST)


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.float32), (None, torch.float64)])
def test_data_are_the_same_whatever_torch_s_defaults(defaults, device, dtype):
    before = data.load("digits", "train")
    defaults(device, dtype)
    after = data.load("digits", "train")
    assert torch.equal(before.images, after.images) and torch.equal(before.labels, after.labels)
    assert data.to_pixels(after.images).dtype == torch.float32
