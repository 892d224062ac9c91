"""Killed by the system at every step of a save, and a full disk: whole files, and the same bits."""

import errno
import json
import os
import shutil
import signal
from itertools import count

import pytest
import torch
from helpers import deaths
from helpers.dots import CONFIG, TRAIN, fresh, same

from linfdist import records, report
from linfdist.experiments import runner
from linfdist.records import RecordError, RunExists
from linfdist.testing import faults, inject
from linfdist.training import checkpoint, fit
from linfdist.training.checkpoint import CheckpointError

KILLED = -signal.SIGKILL


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole():
    net = fresh()
    fit(net, TRAIN, CONFIG, seed=0, progress=False)
    return net


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def deaths_of(action, prepared, folder, codes=(KILLED,), **how):
    """A copy of ``prepared`` for each step at which ``action`` can die, after it has."""
    for step in count(1):
        copy = folder / f"step{step}"
        shutil.copytree(prepared, copy)
        code = deaths.end(action, copy, step=step, **how)
        if code == 0:
            return
        assert code in codes
        yield copy
        shutil.rmtree(copy)


# --- checkpoints --------------------------------------------------------------------------------


def step_of(path):
    return torch.load(path, weights_only=True)["state"]["step"] if path.exists() else 0


def finish(path):
    net = fresh()
    fit(net, TRAIN, CONFIG, seed=0, checkpoint=path, progress=False)
    return net


@pytest.mark.parametrize("done", [0, 7])
def test_killed_at_every_step_of_saving_a_checkpoint(tmp_path, whole, done):
    prepared = tmp_path / "prepared"
    (prepared / "work").mkdir(parents=True)
    if done:
        path = prepared / "work" / "c"
        fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=path, stop_after_steps=done, progress=False)
    seen = []
    for folder in deaths_of(deaths.save_a_checkpoint, prepared, tmp_path):
        seen.append(step_of(folder / "work" / "c"))
        assert same(finish(folder / "work" / "c"), whole)
        assert [*files(folder / "work")] == ["c"]
    assert set(seen) == {done, done + 1} and seen == sorted(seen)
    assert len(seen) >= faults.get("killed while saving a checkpoint").times // 3


def test_killed_inside_a_write_of_a_checkpoint(tmp_path, whole):
    prepared = tmp_path / "prepared"
    (prepared / "work").mkdir(parents=True)
    path = prepared / "work" / "c"
    fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=path, stop_after_steps=7, progress=False)
    size = path.stat().st_size
    for left in (1000, size // 2, size - 73, size - 20):
        folder = tmp_path / f"left{left}"
        shutil.copytree(prepared, folder)
        code = deaths.end(deaths.save_a_checkpoint, folder, bytes_left=left)
        assert code == -signal.SIGXFSZ and step_of(folder / "work" / "c") == 7
        assert (folder / "work" / "c.tmp").stat().st_size <= left
        assert same(finish(folder / "work" / "c"), whole)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, whole, share):
    path, settings = tmp_path / "c", {"seed": 0, "progress": False, "checkpoint": tmp_path / "c"}
    fit(fresh(), TRAIN, CONFIG, stop_after_steps=7, **settings)
    before = files(tmp_path)
    with inject.full_disk(int(share * path.stat().st_size)):
        with pytest.raises(
            CheckpointError, match=r"writing it failed \(.*File too large.*Free some space"
        ):
            fit(fresh(), TRAIN, CONFIG, stop_after_steps=1, **settings)
    assert files(tmp_path) == before
    assert same(finish(path), whole)


def fail_at(monkeypatch, number):
    """The disk is full at the number-th fsync, counted from 1; how many there were."""
    fsync, seen = os.fsync, []

    def full(descriptor):
        seen.append(descriptor)
        if len(seen) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    return seen


@pytest.mark.parametrize("number", [1, 2])
def test_a_disk_that_is_full_at_an_fsync_keeps_a_checkpoint(tmp_path, whole, monkeypatch, number):
    settings = {"seed": 0, "progress": False, "checkpoint": tmp_path / "c"}
    fit(fresh(), TRAIN, CONFIG, stop_after_steps=7, **settings)
    with monkeypatch.context() as patch:
        fail_at(patch, number)
        with pytest.raises(CheckpointError, match="No space left on device"):
            fit(fresh(), TRAIN, CONFIG, stop_after_steps=1, **settings)
    assert [*files(tmp_path)] == ["c"]
    assert same(finish(tmp_path / "c"), whole)


def test_an_error_that_is_not_the_disk_s_is_not_blamed_on_it(tmp_path):
    with pytest.raises(RuntimeError, match="no such thing") as caught:
        checkpoint.save(tmp_path / "c", {}, {"state": Unsaveable()})
    assert not isinstance(caught.value, CheckpointError) and not files(tmp_path)


class Unsaveable:
    def __reduce__(self):
        raise RuntimeError("no such thing")


# --- records and tables -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work folder at the end of training, and what its record is when nothing happens."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        deaths.tiny(patch, folder)
        patch.setattr(runner, "evaluate", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.run(deaths.NAME, scale="smoke", device="cpu", progress=False)
        patch.undo()
        whole = tmp_path_factory.mktemp("whole")
        shutil.copytree(folder, whole, dirs_exist_ok=True)
        deaths.run_a_row(whole)
    return folder, whole


def the_run(folder):
    (run,) = (records.read_run(path) for path in (folder / "runs").rglob("seed[0-9]"))
    return run


def same_run(first, second):
    summaries = [json.loads(run.text("metrics.json")) for run in (first, second)]
    for summary in summaries:
        del summary["seconds"]
    return summaries[0] == summaries[1] and all(
        first.text(name) == second.text(name) for name in ("config.json", "certificates.csv")
    )


def run_again(folder):
    try:
        deaths.run_a_row(folder)
    except RunExists:
        return True
    return False


def test_killed_at_every_step_of_recording(tmp_path, trained):
    prepared, whole = trained
    expected, recorded = the_run(whole), []
    for folder in deaths_of(deaths.run_a_row, prepared, tmp_path):
        recorded.append(run_again(folder))
        assert same_run(the_run(folder), expected)
        weights = [
            base / "work" / deaths.NAME / "smoke/seed0/weights.pt" for base in (folder, whole)
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert recorded == sorted(recorded) and {*recorded} == {False, True}
    assert len(recorded) >= faults.get("killed while recording a run").times


def test_a_disk_that_is_full_at_any_fsync_of_recording(tmp_path, trained, monkeypatch):
    prepared, whole = trained
    expected = the_run(whole)
    for number in count(1):
        folder = tmp_path / f"fsync{number}"
        shutil.copytree(prepared, folder)
        with monkeypatch.context() as patch:
            seen = fail_at(patch, number)
            try:
                deaths.run_a_row(folder)
            except RecordError as error:
                assert "No space left on device" in str(error) and "Free some space" in str(error)
        if len(seen) < number:
            break
        run_again(folder)
        assert same_run(the_run(folder), expected)
        assert [path.name for path in the_run(folder).path.parent.iterdir()] == ["seed0"]
    assert number > faults.get("disk full during an fsync of a record").times


@pytest.mark.parametrize("left", [0, 300, 1000])
def test_a_disk_too_full_for_a_record(tmp_path, trained, left):
    prepared, whole = trained
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    with inject.full_disk(left), pytest.raises(RecordError, match="File too large"):
        deaths.run_a_row(tmp_path)
    assert not [*(tmp_path / "runs").rglob("*.csv")] and not [*tmp_path.rglob("*.part")]
    deaths.run_a_row(tmp_path)
    assert same_run(the_run(tmp_path), the_run(whole))


def test_killed_at_every_step_of_amending_a_record(tmp_path, trained):
    _, whole = trained
    before, seen = files(the_run(whole).path), []
    for folder in deaths_of(deaths.amend_a_record, whole, tmp_path):
        run = the_run(folder)
        seen.append("new" in run.certificates)
        if seen[-1]:
            assert run.environment["noted"] == "yes" and run.config == the_run(whole).config
        else:
            assert files(run.path) == before
            deaths.amend_a_record(folder)
    assert seen == sorted(seen) and {*seen} == {False, True}
    assert len(seen) >= faults.get("killed while amending a record").times


def test_killed_at_every_step_of_printing_a_table(tmp_path, trained, monkeypatch):
    _, whole = trained
    deaths.tiny(monkeypatch, whole)
    expected, before, kills = report.text(1, "smoke"), files(the_run(whole).path), 0
    for folder in deaths_of(deaths.print_a_table, whole, tmp_path, reading=True):
        assert files(the_run(folder).path) == before
        monkeypatch.setenv("LINFDIST_RUNS", str(folder / "runs"))
        assert report.text(1, "smoke") == expected
        kills += 1
    assert kills >= faults.get("killed while printing a table").times


def test_what_a_record_needs_is_on_disk_before_the_checkpoint_goes(tmp_path, trained, monkeypatch):
    """A power cut loses what was not synced: the weights, the folder's files, every name above."""
    prepared, _ = trained
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    done, fsync = [], os.fsync

    def synced(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        done.append(os.path.relpath(path, tmp_path))
        fsync(descriptor)

    unlink = type(tmp_path).unlink
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(type(tmp_path), "unlink", lambda path: (done.append("end"), unlink(path)))
    deaths.run_a_row(tmp_path)
    names = [name.split("/")[-1] for name in done]
    assert names[:2] == ["weights.part", "seed0"] and names[-1] == "end"
    assert {*records.FILES, records.CHECKSUMS} <= {*names}
    assert done[-6:-1] == [
        *("runs/table1/mnist_net/smoke", "runs/table1/mnist_net", "runs/table1", "runs", ".")
    ]
