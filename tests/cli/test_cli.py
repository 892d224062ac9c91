"""The command line and the notebooks' parameters: what is accepted, what is refused, and how."""

import importlib
import os
import re
import signal
import subprocess
import sys

import nbformat
import papermill
import pytest

import linfdist
from linfdist import records
from linfdist.cli import main
from linfdist.notebook import UnknownParameter, WrongParameter, check_parameters

NET = "table1/mnist_net"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    return tmp_path


@pytest.mark.quick
def test_a_run_is_listed_tabled_and_not_repeated(capsys):
    run = ["run", NET, "--scale", "smoke", "--quiet"]
    assert main(run) == 0
    out = capsys.readouterr().out
    assert re.search(r"certified_accuracy +\d+\.\d\d %", out)
    assert f"Recorded in {records.run_dir(NET, 'smoke', 0)}" in out

    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(
        rf"smoke +seeds 0 +python -m linfdist run {NET} --scale smoke --seed 1", listed
    )
    assert re.search(rf"paper +not yet run +python -m linfdist run {NET} --scale paper", listed)

    assert main(["table", "1", "--scale", "smoke"]) == 0
    assert "smoke (digits)" in capsys.readouterr().out

    assert main(run) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a run is recorded only once" in captured.err


def test_a_list_of_some_rows_at_one_scale(capsys):
    assert main(["list", "table2", NET, "--scale", "reduced"]) == 0
    out = capsys.readouterr().out
    assert re.findall(r"--scale (\w+)", out) == ["reduced"] * 3
    rows = [f"table2/tinyimagenet_{row}" for row in ("cnn7_bn", "net_mlp")]
    assert re.findall(r"^table\S+(?=: )", out, re.M) == [*rows, NET]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recertify", "table1/mnist_nte"], "Did you mean 'table1/mnist_net'"),
        (["recertify", NET, "--scale", "papre"], "Did you mean 'paper'"),
        (["list", "tabel1"], "Unknown table or row 'tabel1'. Did you mean 'table1'"),
        (["list", "--scale", "papre"], "Did you mean 'paper'"),
        (["run", "table1/mnist_nte"], "Did you mean 'table1/mnist_net'"),
        (["run", NET, "--scale", "papre"], "Did you mean 'paper'"),
        (["run", NET, "--device", "gpu"], "device 'gpu' cannot be used"),
        (["run", NET, "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["table", "70"], "Unknown table '70'. Did you mean '7'? Known: 1, 2, 3,"),
        (["run", "x"], "Unknown experiment 'x'. `python -m linfdist list` shows all "),
        (["attack", "x"], "Unknown table or row 'x'. `python -m linfdist list` shows all "),
        (["run", NET, "--scale", "smoke", "--device", "meta"], "device 'meta' cannot be used"),
        (["run", NET, "--scale", "smoke", "--device", "mps"], "device 'mps' cannot be used"),
        (["table", "1", "--scale", "small"], "Unknown scale 'small'"),
    ],
)
def test_bad_input_is_one_line_on_stderr(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 350  # not every name, and not pages of torch's


def test_an_unknown_row_of_a_table_says_what_lists_the_rows():
    from linfdist.experiments import UnknownName, parse_rows

    message = "Did you mean 'mnist_net'.*`python -m linfdist list table1` shows all"
    with pytest.raises(UnknownName, match=message):
        parse_rows("mnist_nte")
    with pytest.raises(UnknownName, match=r"row of Table 2 'x'\. Known: tinyimagenet"):
        parse_rows("x", table=2)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", NET, "--seed", "-1"], "must be a whole number of at least 0; got '-1'"),
        (["run", NET, "--seconds", "0"], "must be a number of seconds above 0; got '0'"),
        (["run", NET, "--seconds", "nan"], "must be a number of seconds above 0; got 'nan'"),
        (["run", NET, "--seconds", "1m"], "must be a number of seconds above 0; got '1m'"),
        (["table", "one"], "invalid int value: 'one'"),
        (["walk"], "invalid choice: 'walk'"),
        ([], "required: COMMAND"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_data_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LINFDIST_DATA", str(tmp_path / "nowhere"))

    def no_network(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    assert main(["run", NET]) == 2
    error = capsys.readouterr().err
    assert "MNIST is not in" in error
    assert "set LINFDIST_DATA" in error


def test_a_foreign_checkpoint_is_named(capsys):
    checkpoint = records.work_dir(NET, "smoke", 0) / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"nothing")
    assert main(["run", NET, "--scale", "smoke"]) == 2
    assert str(checkpoint) in capsys.readouterr().err


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def stopped(request):
    """What a user or a scheduler stops; the handlers are afterwards what they were."""
    before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    yield lambda *args, **kwargs: signal.raise_signal(request.param)
    assert signal.getsignal(signal.SIGTERM) == before[signal.SIGTERM]
    signal.signal(signal.SIGINT, before[signal.SIGINT])


@pytest.mark.quick
def test_a_stopped_run_says_how_to_go_on(capsys, monkeypatch, stopped):
    monkeypatch.setattr("linfdist.experiments.runner.run", stopped)
    assert main(["run", NET, "--seed", "3", "--device", "cpu", "--restart"]) == 130
    error = capsys.readouterr().err
    # Everything but --restart, which would drop the checkpoint.
    assert error.endswith(f"run {NET} --scale reduced --seed 3 --device cpu\n")
    assert "Stopped before a checkpoint was written. To start again: " in error
    checkpoint = records.work_dir(NET, "reduced", 3) / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert main(["run", NET, "--seed", "3", "--device", "cpu"]) == 130
    assert "Stopped. To continue from the last checkpoint: " in capsys.readouterr().err


def test_any_stopped_command_ends_without_a_traceback(capsys, monkeypatch, stopped):
    monkeypatch.setattr("linfdist.experiments.recertify.recertify_all", stopped)
    assert main(["recertify", NET]) == 130
    assert capsys.readouterr().err == "\nStopped; finished work is kept.\n"


def test_output_that_nobody_reads_ends_without_a_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "linfdist", "table", "5"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_run_in_parts_says_how_to_go_on_and_ends_with_a_record(capsys):
    run = ["run", NET, "--scale", "smoke", "--seconds", "1e-3", "--device", "cpu", "--restart"]
    assert main(run) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "0.04 of 14 epochs are done, 13.96 are left" in captured.err
    again = f"run {NET} --scale smoke --seed 0 --device cpu --seconds 0.001"
    assert captured.err.endswith(f"\nTo continue: python -m linfdist {again}\n")
    assert records.find_runs() == []
    assert main([*again.split()[:-1], "1000", "--quiet"]) == 0
    (run,) = records.find_runs()
    assert len(run.epochs) == 14 and run.environment["processes"] == 1


COMMANDS = "list", "run", "table", "recertify", "attack", "bench", "bench epochs", "session"


@pytest.mark.quick
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_teaches_by_examples_in_80_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    example = f"  python -m linfdist {command}".rstrip() + " "
    assert sum(line.startswith(example) for line in lines) >= 2
    assert max(map(len, lines)) <= 80


def test_another_system_is_named(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        caught = None
        try:
            importlib.reload(linfdist)
        except ImportError as error:
            caught = str(error)
    assert caught is not None and "must be POSIX, as Linux and macOS are; got 'nt'" in caught


PARAMETERS = 'scale = "smoke"\nrerun: bool = False\n'
CHECK = "from linfdist.notebook import check_parameters\ncheck_parameters(In)"


@pytest.mark.parametrize(
    "cells",
    [
        ["", PARAMETERS, CHECK],
        ["", PARAMETERS, '# Parameters\nscale = "paper"\n', CHECK],
        ["", PARAMETERS, CHECK, "table = 1", CHECK],  # run again in a notebook that is open
    ],
)
def test_known_parameters_pass(cells):
    check_parameters(cells)


def test_unknown_parameters_are_refused():
    cells = ["", PARAMETERS, "# Parameters\nscale = 1\nrerum = True\n", CHECK]
    with pytest.raises(UnknownParameter, match=r"'rerum'\. Did you mean 'rerun'\? Known: scale, r"):
        check_parameters(cells)


# A default, what may take its place, and what may not, as papermill writes them.
TYPES = {
    "False": (
        ("True", "False"),
        ('"false"', '"False"', '"true"', '"no"', '"yes"', '""', "0", "1", "0.0", "None", "[]"),
    ),
    "0": (("3", "-1"), ('"3"', '"0"', "3.0", "True", "None", "[3]", "float('nan')", "1e3")),
    "0.05": (("0.1", "1", "-2.5", "1e-3"), ('"0.1"', "True", "None", "(0.1,)", "float('nan')")),
    '"reduced"': (('"smoke"', '""'), ("1", "9.0", "True", "None", '["smoke"]', "b'smoke'")),
    "(16, 16)": (("[8, 8]", "(8,)", "[]"), ("16", '"16,16"', "[8.0]", '["8"]', "[True]", "None")),
    "(0.4, 0.2)": (("[1, 0.5]", "(0.5,)"), ("0.5", '"0.5"', '["0.5"]', "[None]", "{}")),
}


@pytest.mark.parametrize("default", TYPES)
def test_a_parameter_takes_values_of_its_default_s_type_alone(default):
    good, bad = TYPES[default]
    for value in good:
        check_parameters(["", f"a = {default}", f"# Parameters\na = {value}\n", CHECK])
    for value in bad:
        cells = ["", f"a = {default}", f"# Parameters\na = {value}\n", CHECK]
        with pytest.raises(WrongParameter, match=r"^Parameter 'a' must be .*, such as .*; got "):
            check_parameters(cells)


def test_the_error_names_the_parameter_the_type_and_what_to_type():
    for given, message in (
        ('rerun = "false"', r"'rerun' must be True or False, such as False; got 'false'\. papermi"),
        (
            "scale = 1",
            r"'scale' must be text, such as 'smoke'; got 1\. papermill takes -r NAME",
        ),
    ):
        with pytest.raises(WrongParameter, match=message):
            check_parameters(["", PARAMETERS, f"# Parameters\n{given}\n", CHECK])


@pytest.mark.skipif(sys.platform == "win32", reason="kernels are slow to start there")
def test_papermill_is_stopped_by_a_value_of_another_type(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CHECK),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    path = tmp_path / "notebook.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    with pytest.raises(papermill.PapermillExecutionError, match="must be True or False"):
        papermill.execute_notebook(path, None, {"rerun": "false"}, progress_bar=False)
