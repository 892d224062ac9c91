"""Folders in which nothing can be written, for root, too: its rights are put off meanwhile."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SOMEBODY = 12345  # a user who owns nothing


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
    root = os.geteuid() == 0
    if root:
        os.seteuid(SOMEBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in folders:
            path.chmod(0o755)


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
        "Name a folder that can be written to",
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
