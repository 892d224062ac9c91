"""Terminals without Unicode, and streams that are closed, full or not read."""

import os
import re
import subprocess
import sys

import pytest
from helpers import made_records
from helpers.dots import CONFIG, TRAIN, fresh

from linfdist import records
from linfdist.experiments import recertify
from linfdist.system import terminal
from linfdist.training import fit

NET = "table1/mnist_net"
RUN = f"run {NET} --scale smoke --device cpu"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    return tmp_path


def called(command: str, redirected: str = "", **variables: str) -> subprocess.CompletedProcess:
    line = f"exec {sys.executable} -m linfdist {command} {redirected}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(["sh", "-c", line], capture_output=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("command", "encoding"),  # each once: a process takes 3 s to import torch
    [
        ("list table1", "latin-1"),
        ("table 1", "ascii"),
        ("table 4", "cp1252:strict"),
        ("--help", "ascii"),
    ],
)
def test_a_terminal_without_a_letter_shows_a_question_mark(command, encoding):
    ended = called(command, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert ended.returncode == 0 and ended.stderr == b""
    text = ended.stdout.decode(encoding.partition(":")[0])
    assert len(text) > 500
    if command in ("list table1", "table 1"):
        assert "?-dist Net" in text or "??-dist Net" in text


def test_an_error_is_told_on_a_terminal_without_its_letters(tmp_path):
    runs = tmp_path / "ℓ∞"
    runs.write_text("")
    ended = called("list", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LINFDIST_RUNS=str(runs))
    assert ended.returncode == 2 and b"Traceback" not in ended.stderr
    assert b"must be a folder that can be read" in ended.stderr


def test_a_run_with_closed_streams_is_recorded(tmp_path):
    assert called(RUN, "<&- >&- 2>&-").returncode == 0
    (run,) = records.find_runs()
    assert run.metrics["clean_accuracy"] > 0.8
    # What a library writes to number 2 is in no file of the run.
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"Warning" in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("command", "redirected"),
    [("list table1", ">&-"), ("table 6", "2>&-"), ("table 6", ">&- 2>&-")],
)
def test_what_is_printed_to_a_closed_stream_is_nothing(command, redirected):
    ended = called(command, redirected)
    assert ended.returncode == 0 and ended.stderr == b""
    assert bool(ended.stdout) == (redirected == "2>&-")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has it")
def test_a_full_output_is_named():
    ended = called("table 6", "> /dev/full")
    assert ended.returncode == 2
    assert re.fullmatch(
        r"python -m linfdist: .*No space left on device.* Free some space\.\n",
        ended.stderr.decode(),
    )


def test_error_messages_that_nobody_reads_end_without_a_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "linfdist", "table", "70"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing, check=False)
    os.close(writing)
    assert ended.returncode in (1, 2) and ended.stdout == b""


@pytest.mark.parametrize("progress", [True, False])
def test_training_and_evaluation_without_standard_error(progress, monkeypatch, capsys):
    from linfdist.evaluation import evaluate

    monkeypatch.setattr(sys, "stderr", None)
    net = fresh()
    fit(net, TRAIN, CONFIG, seed=0, progress=progress)
    evaluate(net, TRAIN.take(20), TRAIN.info.eps, progress=progress)
    assert capsys.readouterr().out == ""


def test_recertifying_without_streams(monkeypatch, tmp_path):
    run = made_records.record(tmp_path, epochs=[{"epoch": 1, "train_accuracy": 0.5}])
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    (failed,) = recertify.recertify_all([run])  # its weights are missing
    assert failed.startswith(NET)


@pytest.mark.parametrize(("here", "shown"), [(True, True), (False, False), (None, False)])
def test_a_bar_is_for_terminals(here, shown, monkeypatch):
    class Stream:
        def isatty(self):
            return here

    monkeypatch.setattr(sys, "stderr", None if here is None else Stream())
    assert terminal.shows_bar(True) is shown and terminal.shows_bar(False) is False


def test_no_module_asks_a_stream_that_may_be_closed():
    """Of the package: ``terminal`` alone."""
    package = records.repository() / "linfdist"
    for path in package.rglob("*.py"):
        if path.name != "terminal.py":
            assert "isatty()" not in path.read_text(), path
