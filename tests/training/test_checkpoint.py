"""Checkpoints are whole, ours, or refused."""

import os

import pytest
import torch

from linfdist.training import checkpoint
from linfdist.training.checkpoint import CheckpointError

pytestmark = pytest.mark.quick

PRINT = {"experiment": "table1/x", "seed": 0, "train": {"lr": 0.02, "epochs": [1, 2, 3]}}
STATE = {"step": 3, "net": {"weight": torch.arange(4.0)}, "rows": [{"p": float("inf"), "a": None}]}


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new folder" / "checkpoint.pt"
    checkpoint.save(path, PRINT, STATE)
    state = checkpoint.load(path, PRINT, "cpu")
    assert state["step"] == 3 and state["rows"] == STATE["rows"]
    assert torch.equal(state["net"]["weight"], torch.arange(4.0))
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]


def test_tuples_in_a_fingerprint_are_lists_in_its_file(tmp_path):
    checkpoint.save(tmp_path / "c", {"shape": (1, 2)}, STATE)
    assert checkpoint.load(tmp_path / "c", {"shape": (1, 2)}, "cpu")["step"] == 3


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c"
    checkpoint.save(path, PRINT, STATE)

    def crash(content, file):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, PRINT, {**STATE, "step": 4})
    assert checkpoint.load(path, PRINT, "cpu")["step"] == 3
    monkeypatch.undo()
    checkpoint.save(path, PRINT, {**STATE, "step": 5})  # over the half-written leftover
    assert checkpoint.load(path, PRINT, "cpu")["step"] == 5


def test_the_bytes_are_on_disk_before_the_name(tmp_path, monkeypatch):
    done = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), real_replace(a, b)))
    checkpoint.save(tmp_path / "c", PRINT, STATE)
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = tmp_path / "c"
    checkpoint.save(path, PRINT, STATE)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CheckpointError, match=r"/c must be a whole checkpoint.*restart=True"):
        checkpoint.load(path, PRINT, "cpu")
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", [1, 2], {"format": 1}])
def test_another_kind_of_file_is_named(tmp_path, content):
    path = tmp_path / "c"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
        checkpoint.load(path, PRINT, "cpu")


def test_code_in_a_file_is_not_run(tmp_path):
    path = tmp_path / "c"
    torch.save({"format": 1, "fingerprint": "{}", "state": os.system}, path)
    with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
        checkpoint.load(path, {}, "cpu")


def test_another_format_is_named(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        checkpoint.save(tmp_path / "c", PRINT, STATE)
    with pytest.raises(CheckpointError, match="must have format 2; got 99"):
        checkpoint.load(tmp_path / "c", PRINT, "cpu")


def test_another_run_s_checkpoint_says_where_it_differs(tmp_path):
    checkpoint.save(tmp_path / "c", PRINT, STATE)
    other = {**PRINT, "seed": 1, "train": {"lr": 0.04, "epochs": [1, 2, 3], "decay": "l2"}}
    with pytest.raises(CheckpointError, match="must belong to this run") as caught:
        checkpoint.load(tmp_path / "c", other, "cpu")
    for part in (
        "seed: 0 there, 1 here",
        "train.lr: 0.02 there, 0.04 here",
        "train.decay: None there, 'l2' here",
        "restart=True",
    ):
        assert part in str(caught.value)
    assert "epochs" not in str(caught.value)


def test_environments_are_read_without_the_fingerprint(tmp_path):
    calls = [{"commit": "a", "threads": 1}, {"commit": None, "threads": 2}]
    checkpoint.save(tmp_path / "c", PRINT, {**STATE, "environments": calls})
    assert checkpoint.environments(tmp_path / "c") == calls
    checkpoint.save(tmp_path / "c", PRINT, STATE)  # as versions before wrote it
    assert checkpoint.environments(tmp_path / "c") == []
    (tmp_path / "c").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
        checkpoint.environments(tmp_path / "c")
