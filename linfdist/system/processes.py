"""Run a process with a time limit: interrupt it first, kill it last."""

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
    """The exit code of a process in the folder ``cwd``, or None if it was stopped in the end.

    It is stopped after ``seconds``, and then has ``grace`` seconds to save what it has. What it
    prints goes to ``output``.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},  # so that a kill loses no output
        start_new_session=True,  # so that its own children are stopped with it
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _stop(process, grace)


def _stop(process: subprocess.Popen, grace: float) -> None:
    """Ctrl-C, SIGTERM for one that was started to ignore that, and at last a kill."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace / 2)


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """A scheduler's stop is taken as Ctrl-C is: children are stopped, and what is done is told.

    A process started in the background ignores Ctrl-C's signal, and has only this one.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
