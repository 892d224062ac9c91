"""Two processes, updates that are not finite, files with code in them: a named error each."""

import ast
import fcntl
import inspect
import math
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import deaths
from helpers.dots import CONFIG, TRAIN, fresh, same
from helpers.original_files import idx, write_original

import linfdist
from linfdist import data, records
from linfdist.data import DataError, sets
from linfdist.experiments import runner
from linfdist.optim import LpAdamW
from linfdist.records import RecordError, RunExists, files, store
from linfdist.system import disk
from linfdist.testing import faults
from linfdist.training import checkpoint, fit, loop
from linfdist.training.checkpoint import CheckpointError

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_the_tests_of_every_fault_exist(fault):
    assert fault.times >= 1 and fault.tests
    assert bool(fault.error) == ("error" in fault.outcome)
    for test in fault.tests:
        file, _, name = test.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_the_table_has_a_row_for_each_fault():
    assert faults.table()["fault"].tolist() == [fault.name for fault in faults.FAULTS]
    assert len({fault.name for fault in faults.FAULTS}) == len(faults.FAULTS)


# --- two processes ------------------------------------------------------------------------------


def test_two_processes_do_not_write_one_checkpoint(tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, {}, {"step": 1})
    before = path.read_bytes()
    with (tmp_path / "c.tmp").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b"half of")
        other.flush()
        with pytest.raises(CheckpointError, match=r"c\.tmp must be written by one process"):
            checkpoint.save(path, {}, {"step": 2})
        assert path.read_bytes() == before and (tmp_path / "c.tmp").read_bytes() == b"half of"
    checkpoint.save(path, {}, {"step": 2})  # over what a process that died left
    assert checkpoint.load(path, {}, "cpu")["step"] == 2


def test_the_checkpoint_of_another_process_is_not_emptied(tmp_path, monkeypatch):
    """It was the temporary file when it was opened, and is the checkpoint when it is locked."""
    path, lock = tmp_path / "c", fcntl.flock

    def slow(file, how):
        monkeypatch.undo()
        checkpoint.save(path, {}, {"step": 1})
        os.replace(tmp_path / "c", tmp_path / "d")
        os.replace(tmp_path / "d", path)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with pytest.raises(CheckpointError, match="must be written by one process"):
        checkpoint.save(path, {}, {"step": 2})
    assert checkpoint.load(path, {}, "cpu")["step"] == 1


def test_of_two_processes_one_records_the_run(tmp_path, monkeypatch):
    both = [deaths.start(deaths.run_a_row, tmp_path) for _ in range(2)]
    for process in both:
        process.join()
    codes = sorted(process.exitcode for process in both)
    assert codes == [0, 1]  # RunInProgress, or RunExists for one that came late
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    (run,) = records.find_runs()
    assert records.accuracies(run.certificates) == run.metrics


def test_a_run_that_another_process_recorded_meanwhile_stays(tmp_path, monkeypatch):
    """Another work folder, so that no lock keeps them apart."""
    write = files.write_files

    def slow(folder, texts):
        write(folder, texts)
        monkeypatch.setattr(store, "write_files", write)
        monkeypatch.setattr(store, "refuse_recorded", records.run_dir)  # the last look was before
        theirs = records.run_dir(deaths.NAME, "smoke", 0)
        shutil.copytree(folder, theirs)
        (theirs / "theirs").touch()
        monkeypatch.undo()
        monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))

    with monkeypatch.context() as patch:
        deaths.tiny(patch, tmp_path)
        patch.setattr(store, "write_files", slow)
        refuse, seen = records.refuse_recorded, []

        def look(*run):
            seen.append(run)
            return records.run_dir(*run) if len(seen) == 4 else refuse(*run)

        patch.setattr(store, "refuse_recorded", look)
        patch.setattr(records, "refuse_recorded", look)
        with pytest.raises(RunExists, match="a run is recorded only once"):
            runner.run(deaths.NAME, scale="smoke", device="cpu", progress=False)
        assert len(seen) == 5
        assert (records.run_dir(deaths.NAME, "smoke", 0) / "theirs").exists()


# --- what is not finite -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["weight", "running_mean", "exp_avg", "exp_avg_sq"])
def test_an_update_that_is_not_finite_is_never_saved(tmp_path, monkeypatch, what, value):
    """The loss of the step is finite; the first that is not would come after the save."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # after every step
    path, step, steps = tmp_path / "c", LpAdamW.step, []
    net, whole = fresh(), fresh()
    fit(whole, TRAIN, CONFIG, seed=0, progress=False)

    def damaged(self):
        step(self)
        steps.append(self)
        if len(steps) == 9:
            layers = net.features.layers
            tensors = self.state[layers[1].weight] | {
                "weight": layers[1].weight.data,
                "running_mean": layers[2].running_mean,
            }
            tensors[what].view(-1)[0] = value

    with monkeypatch.context() as patch:
        patch.setattr(LpAdamW, "step", damaged)
        message = rf"weights and moments must be finite; .*{what}.* is not after step 8 \(epoch 3"
        with pytest.raises(FloatingPointError, match=message):
            fit(net, TRAIN, CONFIG, seed=0, checkpoint=path, progress=False)
    assert torch.load(path, weights_only=True)["state"]["step"] == 8
    again = fresh()
    fit(again, TRAIN, CONFIG, seed=0, checkpoint=path, progress=False)
    assert same(again, whole)


# --- files with code in them --------------------------------------------------------------------


class Code:
    """Leaves a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_the_code_is_real(tmp_path):
    pickle.loads(pickle.dumps(Code(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A recorded row, and how to give it other weights with their SHA-256."""
    deaths.tiny(monkeypatch, tmp_path)
    run = runner.run(deaths.NAME, scale="smoke", device="cpu", progress=False)
    path = records.work_dir(run.experiment, run.scale, run.seed) / "weights.pt"

    def forged(content):
        torch.save(content, path)
        return records.Run(**{**vars(run), "weights_sha256": disk.sha256(path)})

    return run, forged


def test_weights_with_nan_are_not_loaded(recorded):
    run, forged = recorded
    state = runner.load_trained(run).state_dict()
    state["last.bias"][0] = math.nan
    with pytest.raises(RecordError, match=r"must hold the finite weights .*last\.bias holds NaN"):
        runner.load_trained(forged(state))
    del state["last.bias"]
    with pytest.raises(RecordError, match="must hold the finite weights of this network"):
        runner.load_trained(forged(state))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float64, torch.bfloat16, torch.int64])
def test_weights_of_another_dtype_are_not_loaded(recorded, dtype):
    """torch rounds them, or drops their imaginary part."""
    run, forged = recorded
    state = runner.load_trained(run).state_dict()
    path = records.work_dir(run.experiment, run.scale, run.seed) / "weights.pt"
    assert runner.load_trained(run, str(path)) is not None  # a path as text
    for name in ("last.bias", next(iter(state))):
        other = state | {name: state[name].to(dtype)}
        with pytest.raises(RecordError, match=rf"{name} must be torch\.float32 .*; it is {dtype}"):
            runner.load_trained(forged(other))


PLACES = ("load", "environments", "fit", "weights", "pickled CIFAR-10", "MNIST")


@pytest.mark.parametrize("place", PLACES)
def test_no_file_executes_code(tmp_path, place, request):
    marker, path = tmp_path / "ran", tmp_path / "file"
    content = {"format": 1, "fingerprint": "{}", "state": Code(marker)}
    torch.save(content, path)
    if place in ("load", "environments", "fit"):
        action = {
            "load": lambda: checkpoint.load(path, {}, "cpu"),
            "environments": lambda: checkpoint.environments(path),
            "fit": lambda: fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=path),
        }[place]
        with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
            action()
    elif place == "weights":
        _, forged = request.getfixturevalue("recorded")
        run = forged(content)
        with pytest.raises(RecordError, match="must hold the finite weights of this network"):
            runner.load_trained(run)
    else:
        if place == "MNIST":
            names = ["MNIST/processed/training.pt", "MNIST/processed/test.pt"]
        else:
            batches = ("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))
            names = [f"cifar-10-batches-py/{name}" for name in (*batches, "batches.meta")]
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            torch.save(Code(marker), tmp_path / name, _use_new_zipfile_serialization=False)
        known = "mnist" if place == "MNIST" else "cifar10"
        with pytest.raises(DataError):
            data.load(known, "train", root=tmp_path, download=False)
    assert not marker.exists()


def test_every_load_in_the_package_refuses_code():
    seen = []
    for path in Path(linfdist.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not {"pickle", "dill", "joblib", "shelve", "marshal"} & names, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load"):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
                seen.append(path.name)
    assert sorted(seen) == ["checkpoint.py", "runner.py"]


def test_only_the_originals_are_read(tmp_path, monkeypatch):
    """torchvision once kept MNIST in MNIST/processed, and still reads it from there."""

    for prefix, number in (("train", 7), ("t10k", 5)):
        images, labels = np.zeros((number, 28, 28)), np.arange(number)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"MNIST/raw/{prefix}-{kind}-ubyte"
            write_original(monkeypatch, tmp_path, name, idx(array))
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    other = (torch.full((7, 28, 28), 9, dtype=torch.uint8), torch.zeros(7, dtype=torch.int64))
    for name in ("training.pt", "test.pt"):
        torch.save(other, processed / name)
    read = data.load("mnist", "train", root=tmp_path, download=False)
    assert not read.images.any() and read.labels.tolist() == [*range(7)]
    assert "processed" not in inspect.getsource(sets)
