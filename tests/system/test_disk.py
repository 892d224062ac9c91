"""Disks that refuse: named in the first second, before any work; and no link is followed."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest
from helpers import made_records
from helpers.dots import CONFIG, TRAIN, fresh
from helpers.unwritable import CAUSES, denied
from helpers.unwritable import place as place

import linfdist.report  # noqa: F401  what another user may not be able to read later
from linfdist import data, records
from linfdist.bench import epochs
from linfdist.cli import bench, main, session
from linfdist.experiments import runner
from linfdist.records import RecordError, RunInProgress, files
from linfdist.records.files import expanded
from linfdist.system import disk
from linfdist.training import checkpoint, fit
from linfdist.training.checkpoint import CheckpointError

NET = "table1/mnist_net"
RUN = ["run", NET, "--scale", "smoke", "--device", "cpu", "--quiet"]
EPOCHS = [{"epoch": 1, "p": 8.0, "train_accuracy": 0.5}]


@pytest.fixture
def folders(place, tmp_path, monkeypatch):
    """Records with one run in them, a work folder, and no work that may begin."""
    for name in ("runs", "work"):
        (place / name).mkdir()
        monkeypatch.setenv(f"LINFDIST_{name.upper()}", str(place / name))
    made_records.record(tmp_path, NET, "reduced", epochs=EPOCHS)
    (place / "runs" / "bench").mkdir()
    for name in ("runs", "work"):
        (place / name).chmod(0o777)
    monkeypatch.setenv("HOME", str(place))

    def begun(*args, **kwargs):
        pytest.fail("work has begun")

    monkeypatch.setattr(data, "load", begun)
    for module, name in (
        (runner, "fit"),
        (bench.distances, "measure"),
        (bench.iterations, "measure"),
        (epochs, "measure"),
        (session, "run_within"),
    ):
        monkeypatch.setattr(module, name, begun)
    for module in ("attack", "recertify"):
        monkeypatch.setattr(f"linfdist.experiments.{module}.load_trained", begun)
    return place


def commands(folder: Path) -> dict[str, tuple[list[str], str, int]]:
    """Each command that writes, by name: its words, where it writes, and its exit code."""
    recorded = ["--scale", "reduced", "--device", "cpu", "--quiet"]
    file = str(folder / "runs" / "bench" / "mine.json")
    small = ["session", "--device", "cpu", "--seconds", "60", "--no-build", "--no-tests"]
    return {
        "run, records": (RUN, "runs", 2),
        "run, work": (RUN, "work", 2),
        "attack": (["attack", NET, *recorded], "runs", 2),
        "recertify": (["recertify", NET, *recorded], "runs", 1),
        "bench": (["bench", "--device", "cpu", "--quick", "--json", file], "runs", 2),
        "epochs": (["bench", "epochs", "--device", "cpu", "--json", file], "runs", 2),
        "epochs, default": (["bench", "epochs", "--device", "cpu"], "runs", 2),
        "session, work": (small, "work", 2),
        "session, bench": (small, "runs", 2),
        "session, row": ([*small, "--no-bench", NET, "--scale", "smoke"], "runs", 2),
    }


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("command", commands(Path()))
def test_what_cannot_be_written_is_named_before_any_work(folders, command, cause, capsys):
    words, where, code = commands(folders)[command]
    refuses, said, advice = CAUSES[cause]
    before = sorted(folders.rglob("*"))
    with refuses(folders / where):
        assert main(words) == code
    err = capsys.readouterr().err
    assert str(folders / where) in err and said in err and advice in err, err
    assert "Traceback" not in err
    made = {path for path in folders.rglob("*") if path.is_file()} - {*before}
    assert {path.name for path in made} <= {"lock"}


@pytest.mark.parametrize("command", commands(Path()))
def test_a_file_in_the_place_of_a_folder_is_named_before_any_work(
    folders, command, capsys, monkeypatch
):
    words, where, code = commands(folders)[command]
    if command in ("attack", "recertify"):
        pytest.skip("a run that is recorded lies in a folder")
    (folders / "file").write_text("mine")
    monkeypatch.setenv(f"LINFDIST_{where.upper()}", str(folders / "file"))
    file = str(folders / "file" / "bench" / "x.json")
    words = [file if word.endswith("mine.json") else word for word in words]
    assert main(words) == code
    err = capsys.readouterr().err
    assert str(folders / "file") in err and "Move the file or folder of that name away" in err, err
    assert (folders / "file").read_text() == "mine"


@pytest.mark.parametrize("closed", ["", "table1", "table1/mnist_net/reduced/seed0", "bench"])
@pytest.mark.parametrize("words", [["table", "1"], ["list"], ["table", "4"]])
def test_records_that_cannot_be_read_are_named(folders, words, closed, capsys):
    folder = folders / "runs" / closed
    with denied(folder, mode=0):
        code = main(words)
    runs = ("", "table1", "table1/mnist_net/reduced/seed0")
    reads = closed in {"list": runs, "1": runs, "4": ("", "bench")}[words[-1]]
    out, err = capsys.readouterr()
    if not reads:
        assert (code, err) == (0, "")
        return
    assert code == 2 and out == "" and str(folder) in err, err
    assert "Permission denied" in err and "Change the owner or the mode" in err


def test_records_that_are_a_file_are_named(folders, monkeypatch, capsys):
    (folders / "file").touch()
    monkeypatch.setenv("LINFDIST_RUNS", str(folders / "file"))
    assert main(["list"]) == 2
    assert "must be a folder that can be read" in capsys.readouterr().err


def test_a_name_that_is_too_long_is_named_before_any_work(folders, monkeypatch, capsys):
    monkeypatch.setenv("LINFDIST_WORK", str(folders / ("w" * 300)))
    assert main(RUN) == 2
    assert "Choose a shorter name" in capsys.readouterr().err
    file = folders / "runs" / "bench" / f"{'b' * 300}.json"
    assert main(["bench", "--device", "cpu", "--quick", "--json", str(file)]) == 2
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint.pt.tmp", "weights.pt", "lock"])
def test_a_folder_in_the_place_of_a_work_file_is_named(folders, name, monkeypatch, capsys):
    monkeypatch.undo()  # the data may be loaded: the checkpoint is tried after it
    for folder in ("runs", "work"):
        monkeypatch.setenv(f"LINFDIST_{folder.upper()}", str(folders / folder))
    monkeypatch.setattr(
        "linfdist.training.state.TrainingState.train_step", lambda run: pytest.fail("a step")
    )
    taken = records.work_dir(NET, "smoke", 0) / name
    taken.mkdir(parents=True)
    assert main(RUN) == 2
    err = capsys.readouterr().err
    way_out = (
        "delete the file"
        if name == "checkpoint.pt"
        else "Move the file or folder of that name away"
    )
    assert str(taken) in err and way_out in err


def test_a_training_that_cannot_be_saved_does_not_begin(place, monkeypatch):
    monkeypatch.setattr(
        "linfdist.training.state.TrainingState.train_step", lambda run: pytest.fail("a step")
    )
    message = (
        r"c\.pt must be a file that can be written; writing it failed .*Permission denied.*owner"
    )
    with denied(place), pytest.raises(CheckpointError, match=message):
        fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=place / "c.pt", progress=False)


def test_what_is_tried_leaves_nothing(place):
    (place / "here.json").write_text("mine")
    disk.try_folder(place / "a" / "b")
    for name in ("new.json", "here.json"):
        disk.try_file(place / name)
    checkpoint.try_saving(place / "c")
    records.try_amending(place / "a" / "seed0")
    assert sorted(path.name for path in place.rglob("*")) == ["a", "here.json"]
    assert (place / "here.json").read_text() == "mine"


def test_a_disk_that_fails_later_is_named_with_what_is_kept(folders, monkeypatch, capsys):
    """Bench and attack: the folder could be written to, and then cannot."""
    monkeypatch.setattr(bench.iterations, "measure", lambda *args, **how: [])
    monkeypatch.setattr(bench, "_print", lambda *args: None)
    file = folders / "runs" / "bench" / "mine.json"

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(os, "replace", full)
    assert main(["bench", "--device", "cpu", "--quick", "--json", str(file)]) == 2
    err = capsys.readouterr().err
    assert f"{file} must be written completely; writing it failed" in err
    assert "Free some space. The previous file is kept." in err


def test_any_other_error_of_the_system_ends_a_command_without_a_traceback(monkeypatch, capsys):
    def fails(*args):
        raise OSError(errno.EIO, "Input/output error", "/somewhere")

    monkeypatch.setattr(records, "find_runs", fails)
    assert main(["list"]) == 2
    assert capsys.readouterr().err == (
        "python -m linfdist: [Errno 5] Input/output error: '/somewhere'. "
        "Remove the cause and try again.\n"
    )


# --- links --------------------------------------------------------------------------------------


@pytest.fixture(params=["symbolic", "hard", "dangling"])
def linked(request, place):
    """How to make a name lead to somebody's file, and whether that is as it was."""
    victim = place / "victim"

    def link(path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if request.param != "dangling":
            victim.write_text("precious")
        if request.param == "hard":
            os.link(victim, path)
        else:
            path.symlink_to(victim)

    yield link
    assert victim.exists() == (request.param != "dangling")
    assert not victim.exists() or victim.read_text() == "precious"


def test_no_link_is_followed_by_the_lock(place, linked):
    linked(place / "work" / "lock")
    with pytest.raises(RecordError, match=r"failed .*\. Delete the .*link of that name"):
        with records.lock(place / "work"):
            pytest.fail("it has it")


def test_no_link_is_followed_by_a_checkpoint(place, linked):
    linked(place / "c.tmp")
    for write in (lambda: checkpoint.save(place / "c", {}, {"step": 1}), _try(place / "c")):
        with pytest.raises(CheckpointError, match=r"failed .*\. Delete the .*link of that name"):
            write()


def _try(path):
    return lambda: checkpoint.try_saving(path)


@pytest.mark.parametrize("name", ["c", "weights.part", ".r.json-{pid}", "r.json", "log"])
def test_no_link_is_written_through(place, linked, name):
    path = place / name.format(pid=os.getpid())
    linked(path)
    if name == "c":
        checkpoint.save(path, {}, {"step": 1})
    elif "json" in name:
        files.replace_file(place / "r.json", "{}")
    elif name == "log":
        disk.create(path).close()
    else:
        runner._save_weights(fresh(), place / "weights.pt")
    assert not path.is_symlink()


def test_a_lock_is_still_a_lock(place):
    with records.lock(place), pytest.raises(RunInProgress), records.lock(place):
        pytest.fail("two have it")


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(place, monkeypatch, error):
    def refuses(*args):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", refuses)
    message = rf"{place} must be .* locked; this failed .*{os.strerror(error)}.*LINFDIST_WORK"
    with pytest.raises(RecordError, match=message), records.lock(place):
        pytest.fail("it has it")
    with pytest.raises(CheckpointError, match=rf"writing it failed .*{os.strerror(error)}"):
        checkpoint.try_saving(place / "c")


# --- modes, and homes ---------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_records_have_the_mode_that_the_umask_says(tmp_path, monkeypatch, umask):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    before = os.umask(umask)
    try:
        run = made_records.record(tmp_path, NET, epochs=EPOCHS)
        records.amend_run(run, run.certificates[["label"]].rename(columns={"label": "new"}))
    finally:
        os.umask(before)
    for path in (run.path, *run.path.parents[:3], *run.path.iterdir()):
        wanted = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == wanted & ~umask, path


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, folder in (("RUNS", records.runs_dir), ("WORK", records.work_root)):
        monkeypatch.setenv(f"LINFDIST_{variable}", f"~/{variable}")
        assert folder() == tmp_path / variable
    given = ["bench", "--json", "~/x.json"]
    from linfdist.cli import parser

    assert parser().parse_args(given).json == tmp_path / "x.json"
    assert expanded("a/~") == Path("a/~")


def test_a_home_that_is_not_there_is_named(monkeypatch, capsys):
    monkeypatch.setenv("LINFDIST_RUNS", "~no-such-user/runs")
    with pytest.raises(RecordError, match=r"~no-such-user/runs: ~ must stand for a home folder"):
        records.runs_dir()
    assert main(["list"]) == 2
    with pytest.raises(SystemExit):
        main(["bench", "--json", "~no-such-user/x.json"])
    assert "Set HOME, or write the whole path" in capsys.readouterr().err


@pytest.mark.parametrize("form", [{"rows": 1}, {"rows": [{}]}, {}])
def test_a_bench_in_another_form_is_named(folders, form, capsys):
    for name, words in (("cpu.json", ["bench"]), ("epochs-paper-cpu.json", ["table", "4"])):
        file = folders / "runs" / "bench" / name
        file.write_text(files.sealed_text({"x": 1} | form))
        if words == ["bench"]:
            words = ["bench", "--device", "cpu", "--json", str(file), "--resume"]
        else:
            words = [*words, "--scale", "paper"]
        assert main(words) == 2
        assert "must have the format of a bench" in capsys.readouterr().err
