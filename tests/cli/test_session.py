"""A session: its plan, its budget, what it leaves out the second time, and how it stops."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from linfdist import records
from linfdist.cli import main, session
from linfdist.cli.session import SessionStep

NET = "table1/mnist_net"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    return tmp_path


def run(*arguments, seconds=60, reserve=2):
    given = ("--device", "cpu", "--seconds", seconds, "--reserve", reserve, *arguments)
    return main(["session", *map(str, given)])


def python(name: str, code: str, **given) -> SessionStep:
    return SessionStep(name=name, command=(sys.executable, "-c", code), **given)


@pytest.fixture
def steps(monkeypatch):
    """Stands in for the plan; a test fills it."""
    planned: list[SessionStep] = []
    monkeypatch.setattr(session, "plan", lambda args, device: planned)
    return planned


def table(out: str) -> dict[str, str]:
    """The results that a session prints, by step."""
    lines = out.partition("result\n")[2].splitlines()
    return dict(re.split(r"  +[\d.]+  ", line) for line in lines if "  " in line)


# --- the plan ---------------------------------------------------------------------------------


def test_dry_run_shows_every_step_and_does_nothing(capsys, folders):
    assert run(NET, "table1/cifar10_net", "--scale", "reduced", "--dry-run") == 0
    names, commands = zip(
        *(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()), strict=True
    )
    assert names == ("build", "tests", "bench", NET, "table1/cifar10_net")
    build, tests, bench, first, _ = commands
    assert build.endswith("-m pip install --no-build-isolation --no-deps -e .")
    assert (
        "-m pytest -q --continue-on-collection-errors tests/bench/test_cuda.py tests/ops" in tests
    )
    file = folders / "runs" / "bench" / "cpu.json"
    assert bench.endswith(f"-m linfdist bench --device cpu --json {file} --resume")
    assert first.endswith(f"-m linfdist run {NET} --scale reduced --seed 0 --device cpu")
    assert list(folders.iterdir()) == []


def test_table_4_is_timed_on_request(capsys, folders):
    assert run("--epochs", "--scale", "reduced", "--dry-run", "--no-build", "--no-tests") == 0
    bench, epochs = capsys.readouterr().out.splitlines()
    assert bench.startswith("bench: ")
    command = "-m linfdist bench epochs --scale reduced --device cpu --resume"
    assert epochs.startswith("epochs: ") and epochs.endswith(command)


def test_steps_can_be_left_out(capsys):
    assert run(NET, "--no-build", "--no-tests", "--no-bench", "--dry-run") == 0
    assert capsys.readouterr().out.startswith(f"{NET}: ")


@pytest.mark.parametrize("here", [True, False])
def test_the_sanitizer_runs_where_it_is_installed(here, capsys, monkeypatch):
    monkeypatch.setattr(session.shutil, "which", lambda name: "/bin/true" if here else None)
    assert run("--sanitize", "--dry-run", "--no-build", "--no-tests", "--no-bench") == 0
    memcheck, racecheck = capsys.readouterr().out.splitlines()
    if here:
        assert "compute-sanitizer --tool memcheck --error-exitcode 1" in memcheck
        assert racecheck.endswith("-m pytest -q tests/ops/test_cuda.py")
    else:
        assert memcheck == "memcheck: skipped: compute-sanitizer is not on PATH"


def test_every_file_with_a_test_for_a_gpu_is_run():
    checkout = records.checkout()
    marked = [
        path.relative_to(checkout).as_posix()
        for path in (checkout / "tests").rglob("test_*.py")
        if "needs_gpu" in path.read_text() and path.name != Path(__file__).name
    ]
    found = session._gpu_tests(checkout)
    assert marked and set(marked) <= set(found)
    assert session.SANITIZED in found


def test_tests_with_a_gpu_in_their_name_are_found(tmp_path):
    for name in (
        "test_cuda_graphs.py",
        "nn/test_on_gpu.py",
        "ops/test_cuda.py",
        "data/test_data.py",
    ):
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = session._gpu_tests(tmp_path)
    assert found == [
        "tests/nn/test_on_gpu.py",
        "tests/ops/test_cuda.py",
        "tests/test_cuda_graphs.py",
    ]


def test_a_recorded_row_is_left_out(capsys):
    records.run_dir(NET, "smoke", 3).mkdir(parents=True)
    only = ("--no-build", "--no-tests", "--no-bench")
    assert run(NET, "--scale", "smoke", "--seed", 3, *only, "--dry-run") == 0
    assert capsys.readouterr().out == f"{NET}: already recorded\n"
    assert run(NET, "--scale", "smoke", "--seed", 3, *only) == 0
    assert table(capsys.readouterr().out) == {NET: "already recorded"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([NET, "--scale", "papre"], "Did you mean 'paper'"),
        (["table1/mnist_nte"], "Did you mean 'table1/mnist_net'"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--seconds", "4"], "must be more than twice --reserve=2, .*; got 4. Raise --seconds"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, message, capsys, folders):
    assert run(*arguments) == 2
    assert re.search(message, capsys.readouterr().err)
    assert list(folders.iterdir()) == []


def test_a_copy_without_its_checkout_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(records, "checkout", lambda: None)
    assert run() == 2
    assert "must be imported from its checkout" in capsys.readouterr().err


# --- running it -------------------------------------------------------------------------------


def test_each_step_has_a_log_and_a_line(steps, capsys, folders):
    steps += [python("build", "print('one'); print('two')"), python("a/b", "print('three')")]
    assert run() == 0
    out = capsys.readouterr().out
    assert table(out) == {"build": "two", "a/b": "three"}
    (folder,) = (folders / "work" / "session").glob("*-*")
    assert (folder / "build.log").read_text() == "one\ntwo\n"
    assert (folder / "a-b.log").read_text() == "three\n"
    assert out.endswith(f"Output of the steps: {folder}\n")


def test_a_failed_step_does_not_stop_the_next(steps, capsys):
    steps += [python("tests", "raise SystemExit('1 failed')"), python("bench", "print('fine')")]
    assert run() == 1
    results = table(capsys.readouterr().out)
    assert results == {"tests": "failed (1): 1 failed", "bench": "fine"}


def test_a_failed_build_does(steps, capsys):
    steps += [python("build", "raise SystemExit(7)", essential=True), python("tests", "")]
    assert run() == 1
    assert table(capsys.readouterr().out) == {"build": "failed (7): no output"}


def test_what_is_done_is_not_done_again_for_the_same_code(steps, capsys, monkeypatch):
    steps += [python("tests", "print('passed')"), python("bench", "raise SystemExit(1)")]
    again = "already done for this code on this device"
    assert run() == 1
    capsys.readouterr()
    assert run() == 1  # the one that failed is run again
    assert table(capsys.readouterr().out) == {"tests": again, "bench": "failed (1): no output"}
    assert run("--dry-run") == 0
    assert f"tests: {again}\n" in capsys.readouterr().out

    monkeypatch.setattr(session, "_code", lambda: "other code")
    assert run() == 1
    assert table(capsys.readouterr().out)["tests"] == "passed"


def test_what_is_done_is_done_again_where_its_file_is_gone(steps, capsys, tmp_path, monkeypatch):
    file = tmp_path / "bench.json"
    steps.append(python("bench", f"open({str(file)!r}, 'w'); print('measured')", leaves=file))
    for expected in ("measured", "already done for this code on this device"):
        assert run() == 0
        assert table(capsys.readouterr().out) == {"bench": expected}
    file.unlink()
    assert run() == 0
    assert table(capsys.readouterr().out) == {"bench": "measured"}

    steps[:] = [python("build", "print('built')", essential=True)]
    monkeypatch.setattr(session, "find_spec", lambda name: None)  # another machine's work folder
    for _ in range(2):
        assert run() == 0
        assert table(capsys.readouterr().out) == {"build": "built"}


def test_a_budgeted_step_is_told_its_seconds_and_may_say_that_they_did_not_suffice(steps, capsys):
    code = "import sys; print(sys.argv[1:]); sys.exit(3)"
    steps += [python(NET, code, budgeted=True), python("next", "print('fine')")]
    assert run(seconds=60, reserve=2) == 3
    results = table(capsys.readouterr().out)
    seconds = re.fullmatch(r"out of time: \['--seconds', '(\d+)'\]", results[NET])
    assert 50 <= int(seconds[1]) <= 56  # 60 less twice the reserve
    assert results["next"] == "fine"
    assert run(seconds=60, reserve=2) == 3  # not remembered as done


def test_failure_weighs_more_than_time(steps):
    steps += [
        python("out", "raise SystemExit(3)", budgeted=True),
        python("failed", "raise SystemExit(3)"),
    ]
    assert run() == 1


def test_a_step_that_takes_too_long_is_interrupted_and_the_rest_not_started(steps, capsys):
    code = (
        "import signal, time\n"
        # What is started in the background ignores SIGINT, and hands that on.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    print('started', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('saved')\n"
    )
    steps += [python("long", code), python(NET, "", budgeted=True)]
    started = time.monotonic()
    assert run(seconds=6, reserve=2) == 3
    assert time.monotonic() - started < 20
    results = table(capsys.readouterr().out)
    assert results == {"long": "out of time: saved", NET: "not started: out of time"}


def test_one_that_ignores_every_signal_is_killed_with_its_children(steps, capsys, tmp_path):
    note = tmp_path / "child"
    ignore = "import signal, time\nfor s in (2, 15):\n    signal.signal(s, signal.SIG_IGN)\n"
    child = f"{ignore}time.sleep(60)"
    code = (
        f"{ignore}import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        f"open({str(note)!r}, 'w').write(str(child.pid))\ntime.sleep(60)\n"
    )
    steps.append(python("stubborn", code))
    assert run(seconds=4, reserve=1) == 3
    assert table(capsys.readouterr().out) == {"stubborn": "out of time: no output"}
    stat = Path(f"/proc/{note.read_text()}/stat")
    deadline = time.monotonic() + 10
    while stat.exists() and " Z " not in stat.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not stat.exists() or " Z " in stat.read_text()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_a_session_stops_its_step(sign, folders):
    started = folders / "started"
    code = f"import time; open({str(started)!r}, 'w'); time.sleep(60)"
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from linfdist.cli import session\nfrom linfdist.cli import main\n"
        f"step = session.SessionStep(name='long', command=(sys.executable, '-c', {code!r}))\n"
        "session.plan = lambda *_: [step]\n"
        "sys.exit(main(['session', '--device', 'cpu', '--seconds', '50', '--reserve', '2']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 40
    while not started.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, sign)
    out, _ = process.communicate(timeout=40)
    assert process.returncode == 130, out
    assert "Interrupted. Repeat the same command to continue." in out
