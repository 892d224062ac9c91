"""Run a process with a time limit: interrupt it first, and kill it only if it does not end."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO


def run_within(
    seconds: float, command: Sequence[str], output: BinaryIO, *, cwd: Path | None, grace: float
) -> int | None:
    """Run a process and return its exit code, or None if it was stopped at the time limit.

    Args:
        seconds: the time limit, after which the process is stopped.
        command: the program and its arguments.
        output: receives everything that the process prints.
        cwd: the working directory of the process.
        grace: the seconds that a stopped process has to save its work before it is killed.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},  # a killed process then loses no output
        start_new_session=True,  # its own children are then stopped with it
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _stop(process, grace)


def _stop(process: subprocess.Popen, grace: float) -> None:
    """Send SIGINT, then SIGTERM in case the process ignores SIGINT, and finally SIGKILL."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace / 2)


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM, with which schedulers stop a process, as Ctrl-C.

    Children are then stopped, and the command reports what it has finished. A process started in
    the background ignores SIGINT, so SIGTERM is the only signal that can interrupt it.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
