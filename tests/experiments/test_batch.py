"""Many runs by one command: what is recorded stays, what was cut goes on, what fails is named."""

import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers.threads import one_thread

from linfdist import experiments, records
from linfdist.experiments import UnknownName, batch, runner
from linfdist.experiments.batch import Batch, BatchError, Wanted
from linfdist.training import OutOfTime, fit

ROOT = Path(__file__).resolve().parents[2]
NET, BAD = "table1/mnist_net", "table1/fashion_mnist_net"
BOTH = [Wanted(name=NET, scale="smoke", seed=seed) for seed in (0, 1)]
snakemake = pytest.mark.skipif(find_spec("snakemake") is None, reason="needs pip install .[batch]")


def put_folders(to: Path, patch: pytest.MonkeyPatch) -> None:
    """Records and work under a folder, here and in the processes that are started."""
    patch.setenv("LINFDIST_RUNS", str(to / "runs"))
    patch.setenv("LINFDIST_WORK", str(to / "work"))


def command(*arguments: str) -> list[str]:
    python = (sys.executable, "-m", "snakemake", "--nocolor")
    return [*python, "-s", str(ROOT / "runs" / "Snakefile"), "--cores", "2", *arguments]


def called(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A call of Snakemake that has ended; all that it wrote is in ``stdout``."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(command(*arguments), cwd=folder, check=False, **output)


def jobs(output: str) -> set[str]:
    """What was, or would be, started, but for the targets themselves."""
    return {job for job in re.findall(r"^Job \d+: (.*)$", output, re.M) if ": done" not in job}


@pytest.fixture(scope="module")
def patch():
    """All of this file's trainings have one thread, as those of Snakemake have."""
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, patch) -> records.Run:
    """The run that is killed below, in one go."""
    with patch.context() as here:
        put_folders(tmp_path_factory.mktemp("unbroken"), here)
        return runner.run(NET, scale="smoke", seed=0, device="cpu", progress=False)


def two_epochs_and_a_bit(*args, **kwargs) -> None:
    fit(*args, **kwargs, stop_after_steps=50)
    raise OutOfTime


@pytest.fixture(scope="module")
def folder(tmp_path_factory, unbroken, patch) -> Path:
    """Where the calls are made; the first run has a checkpoint, a third row has damaged ones."""
    folder = tmp_path_factory.mktemp("batch")
    put_folders(folder, patch)
    with patch.context() as here, pytest.raises(OutOfTime):
        here.setattr(runner, "fit", two_epochs_and_a_bit)
        runner.run(NET, scale="smoke", seed=0, device="cpu", progress=False)
    for seed in (0, 1):
        damaged = records.work_dir(BAD, "smoke", seed)
        damaged.mkdir(parents=True)
        (damaged / "checkpoint.pt").write_bytes(b"nothing")
    return folder


ASKED = (NET, "--config", "scale=smoke", "seeds=0,1", "device=cpu")


@pytest.fixture(scope="module")
def killed(folder) -> None:
    """A call that is killed, with all that it started, while the first run is training."""
    with (folder / "killed.log").open("w") as output:
        process = subprocess.Popen(
            command(*ASKED), cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    log, end = BOTH[0].log, time.monotonic() + 300
    while not (log.exists() and "epoch 4/14" in log.read_text()):
        assert process.poll() is None and time.monotonic() < end, (
            folder / "killed.log"
        ).read_text()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not BOTH[0].record.exists() and not BOTH[0].flag.exists()
    assert (BOTH[0].log.parent / "checkpoint.pt").exists()


@pytest.fixture(scope="module")
def again(folder, killed) -> subprocess.CompletedProcess:
    """The same call again, with a row that fails."""
    return called(folder, BAD, *ASKED)


def contents(path: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file's bytes and time."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@snakemake
def test_a_failed_row_stops_no_other_and_is_named_at_the_end(again):
    assert again.returncode == 1, again.stdout[-3000:]
    assert [found.seed for found in records.find_runs(NET)] == [0, 1]
    assert {found.environment["threads"] for found in records.find_runs()} == {1}
    assert re.search(r"\d of \d steps \(\d+%\) done", again.stdout)  # progress over the whole
    # How many the killed call had left is a matter of luck: both of BAD, at least one of NET.
    _, *end = re.split(r"\nNot recorded, 2 of the [34] runs of this call:\n", again.stdout)
    assert len(end) == 1, again.stdout[-3000:]
    for seed in (0, 1):
        run = Wanted(name=BAD, scale="smoke", seed=seed)
        why = rf"{run}: .* must be a whole checkpoint.*\n  {re.escape(str(run.log))}\n"
        assert len(re.findall(why, end[0])) == 1, end
    assert NET not in end[0]


@snakemake
def test_killed_and_called_again_a_run_ends_as_if_unbroken(again, unbroken):
    found = records.read_run(BOTH[0].record)
    assert found.weights_sha256 == unbroken.weights_sha256
    assert found.metrics == unbroken.metrics and found.config == unbroken.config
    pd.testing.assert_frame_equal(found.certificates, unbroken.certificates)
    timeless = [run.epochs.drop(columns="seconds") for run in (found, unbroken)]
    pd.testing.assert_frame_equal(*timeless)
    assert BOTH[0].log.read_text().startswith("epoch 3/14")  # from the checkpoint


@snakemake
def test_a_dry_run_lists_what_is_not_recorded_and_only_that(folder, again):
    before = contents(folder / "runs")
    dry = called(folder, "-n", "-p", "table1", "--config", "scale=smoke", "seeds=0-2")
    assert dry.returncode == 0, dry.stdout
    missing = {
        f"{name}, smoke, seed {seed}"
        for name in batch.tables()["table1"]
        for seed in (0, 1, 2)
        if Wanted(name=name, scale="smoke", seed=seed) not in BOTH
    }
    assert jobs(dry.stdout) == {*missing, "table1.ipynb at scale smoke"}
    chapter = folder / "work" / "book" / "smoke" / "table1.ipynb"
    notebook = ROOT / "book" / "tables" / "table1.ipynb"
    assert f"-m papermill {notebook} {chapter} -p scale smoke" in dry.stdout
    assert contents(folder / "runs") == before


@snakemake
def test_no_option_and_no_newer_code_makes_a_record_again(folder, again):
    for file in (folder / "runs").rglob("*"):
        os.utime(file, (1e9, 1e9))
    before = contents(folder / "runs")
    second = called(folder, NET, "--forceall", "--rerun-triggers", "code", "mtime", *ASKED[1:])
    assert second.returncode == 0, second.stdout
    assert jobs(second.stdout) == set()
    assert len(before) == 2 * len([*records.FILES, records.CHECKSUMS])
    assert contents(folder / "runs") == before


def test_every_experiment_is_in_its_table():
    assert [name for rows in batch.tables().values() for name in rows] == [*experiments.EXPERIMENTS]
    assert {"table1", "smoothing"} <= batch.tables().keys()
    assert all(
        name.startswith(f"{table}/") for table, rows in batch.tables().items() for name in rows
    )


PAGES = ("README.md", "book/method/batch.md", "runs/Snakefile")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_that_are_shown_are_understood(page):
    text = (ROOT / page).read_text().replace("\\\n", " ")
    shown = re.findall(r"^ *snakemake -s (\S+)([^#\n]*)", text, re.M)
    assert len(shown) >= 2
    for snakefile, given in shown:
        assert (ROOT / snakefile).is_file()
        words = given.partition("  ")[0].split()  # behind two spaces: what it does
        config = dict(word.split("=") for word in words if "=" in word)
        own = {key: value for key, value in config.items() if key in batch.CONFIG_KEYS}
        batch.select(word for word in words if word == "all" or word.startswith("table"))
        Batch.from_config(own | ({"train": False} if "train" in own else {}))
        assert "--config" not in words or own


def test_the_profile_lets_the_others_go_on():
    profile = yaml.safe_load((ROOT / "runs" / "profiles" / "default" / "config.yaml").read_text())
    assert profile["keep-going"] and profile["nolock"] and profile["rerun-incomplete"]
    assert profile["rerun-triggers"] == ["mtime"]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    put_folders(tmp_path, monkeypatch)


def test_what_is_missing_is_rows_by_scales_by_seeds_less_records(empty):
    both = Batch.from_config({"scale": "smoke,reduced", "seeds": "0,2-3"})
    records.run_dir(NET, "reduced", 2).mkdir(parents=True)
    seeds = {"smoke": (0, 2, 3), "reduced": (0, 3)}
    expected = [Wanted(name=NET, scale=s, seed=k) for s in seeds for k in seeds[s]]
    assert both.missing([NET]) == expected
    assert both.missing([NET], ["reduced"]) == expected[3:]
    assert Batch(train=False).missing([NET]) == []


def test_a_record_that_was_deleted_is_made_again(empty):
    (wanted,) = Batch(scales=("smoke",)).missing([NET])
    wanted.flag.parent.mkdir(parents=True)
    wanted.flag.touch()
    wanted.record.mkdir(parents=True)
    assert Batch(scales=("smoke",)).missing([NET]) == [] and wanted.flag.exists()
    wanted.record.rmdir()
    assert Batch(scales=("smoke",)).missing([NET]) == [wanted] and not wanted.flag.exists()


def test_the_state_of_a_run_is_the_last_thing_that_it_said(empty):
    wanted = BOTH[0]
    assert wanted.state() == f"{NET}, smoke, seed 0: not started"
    wanted.log.parent.mkdir(parents=True)
    wanted.log.write_text("epoch 1\nfit: out of time\nTo continue: python -m linfdist run\n\n")
    assert wanted.state() == f"{NET}, smoke, seed 0: fit: out of time\n  {wanted.log}"


@pytest.mark.parametrize("name", ["w{o}rk", "w}"])
def test_braces_in_a_path_are_refused_by_name(name, tmp_path):
    """Snakemake takes them for wildcards, and has nothing to escape them with."""
    assert batch.without_braces(tmp_path) == tmp_path
    with pytest.raises(
        BatchError, match="Set LINFDIST_WORK and LINFDIST_RUNS to folders without braces"
    ):
        batch.without_braces(tmp_path / name)


@snakemake
@pytest.mark.parametrize("variable", ["LINFDIST_WORK", "LINFDIST_RUNS"])
def test_the_snakefile_names_braces(empty, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, str(tmp_path / "w{o}rk"))
    ended = called(tmp_path, "-n", NET, "--config", "scale=smoke")
    assert ended.returncode == 1
    assert "Snakemake reads braces in a path as wildcards; got" in ended.stdout


def test_seconds_and_device_go_to_every_run():
    assert Batch().options == ""
    given = Batch.from_config({"seconds": 600, "device": "cuda:1"})
    assert given.options == "--seconds 600 --device cuda:1"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"seed": 1}, r"Unknown key of --config 'seed'\. Did you mean 'seeds'"),
        ({"seeds": "0-"}, "whole numbers: 0 or 0,2 or 0-7; got '0-'"),
        ({"seeds": "a,1"}, "whole numbers: 0 or 0,2 or 0-7; got 'a'"),
        ({"seeds": "7-0"}, "whole numbers: 0 or 0,2 or 0-7; got '7-0'"),
        ({"seconds": 0}, "seconds must be a number above 0; got 0"),
        ({"seconds": "1h"}, "seconds must be a number above 0; got '1h'"),
        ({"train": "no"}, "train must be True or False; got 'no'"),
    ],
)
def test_bad_config_is_refused(config, message):
    with pytest.raises(BatchError, match=message):
        Batch.from_config(config)


def test_unknown_names_are_refused_with_suggestions():
    with pytest.raises(UnknownName, match="Did you mean 'smoke'"):
        Batch.from_config({"scale": "reduced,smok"})
    with pytest.raises(UnknownName, match=r"Unknown table or row 'tabel1'\. Did you mean 'table1'"):
        batch.select(["tabel1"])
    assert batch.select(["table1", NET]) == batch.tables()["table1"]
    assert batch.select([f"validation/{NET}", NET]) == [f"validation/{NET}", NET]
    assert batch.select([]) == batch.select(["all"]) == [*experiments.EXPERIMENTS]
