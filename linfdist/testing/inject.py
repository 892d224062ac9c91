"""Faults to inject into files and processes: a full disk, a kill at any step, flipped bits."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}


@contextlib.contextmanager
def full_disk(left: int) -> Iterator[None]:
    """Limit this process's files to ``left`` bytes: the system refuses longer writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def die_in_write(left: int) -> None:
    """Let the system kill this process when it writes a file beyond ``left`` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, left))


def die_at(step: int, folder: Path, *, reading: bool = False) -> None:
    """Kill this process by SIGKILL before its ``step``-th change in ``folder``, counted from 1.

    A change is one of these:

    - a file opened for writing, renamed, removed or exchanged, or a folder made;
    - any fsync;
    - with ``reading``, any file opened.

    The hook cannot be removed, so call this only in a process started for the purpose.
    """
    left = [step]

    def change() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "ctypes.dlsym":
            counts = arguments[1] in ("renameat2", "renamex_np")
        elif event == "open":
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            counts = (reading or writes) and _inside(arguments[0], folder)
        else:
            counts = event in _CHANGES and _inside(arguments[0], folder)
        if counts:
            change()

    fsync = os.fsync

    def counted_fsync(fd: Any) -> None:
        change()
        fsync(fd)

    os.fsync = counted_fsync
    sys.addaudithook(hook)


def _inside(path: Any, folder: Path) -> bool:
    return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(str(folder))


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file; bits are counted from 0 at the start of the file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def outcome(action: Callable[[], object]) -> str:
    """Call ``action``; return the class and message of its error, or "no error"."""
    try:
        action()
    except Exception as error:  # any error is reported
        return f"{type(error).__name__}: {error}"
    return "no error"
