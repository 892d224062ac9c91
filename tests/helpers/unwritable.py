"""Folders in which nothing can be written, for root, too: its rights are put off meanwhile."""

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# linux/capability.h: the version of the call, and root's rights to write and to read every file
CAPABILITY_VERSION = 0x20080522
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can look into; pytest's own are closed to all but one."""
    folder = Path(tempfile.mkdtemp(prefix="linfdist-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def denied(folder: Path, mode: int = 0o555) -> Iterator[None]:
    """Nothing in the folder or below can be made or changed; with a mode of 0 nothing be read."""
    folders = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(mode)
    try:
        with ordinary_rights():
            yield
    finally:
        for path in folders:
            path.chmod(0o755)


@contextlib.contextmanager
def ordinary_rights() -> Iterator[None]:
    """This thread obeys the modes of files, for root, too.

    Root stays root: it still reads its own closed folders, where Python may be installed and import
    from.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)  # 0: this thread
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the low words, the high

    def call(name: str) -> None:
        if getattr(libc, name)(header, rights):
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    call("capget")
    effective = rights[0]
    rights[0] = effective & ~(DAC_OVERRIDE | DAC_READ_SEARCH)
    call("capset")
    try:
        yield
    finally:
        rights[0] = effective
        call("capset")


@contextlib.contextmanager
def failing(folder: Path, number: int) -> Iterator[None]:
    """Whoever makes a file or a folder there gets this error of the system."""
    open_, mkdir = os.open, os.mkdir

    def refuse(path):
        if str(path).startswith(str(folder)):
            raise OSError(number, os.strerror(number), str(path))

    def opened(path, flags, *arguments, **named):
        if flags & os.O_CREAT:
            refuse(path)
        return open_(path, flags, *arguments, **named)

    def made(path, *arguments, **named):
        if not os.path.isdir(path):
            refuse(path)
        return mkdir(path, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opened)
        patch.setattr(os, "mkdir", made)
        yield


CAUSES = {
    "permission": (denied, "Permission denied", "Change the owner or the mode"),
    "read-only": (
        lambda folder: failing(folder, errno.EROFS),
        "Read-only file system",
        "Choose a folder that can be written to",
    ),
    "full": (
        lambda folder: failing(folder, errno.ENOSPC),
        "No space left on device",
        "Free some space",
    ),
    "quota": (
        lambda folder: failing(folder, errno.EDQUOT),
        "quota exceeded",
        "Free some space",
    ),
}
