"""What files and folders need: tried before work starts, opened where no link leads, explained."""

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_TAKEN = "Move away what has that name, or name another folder"
_DENIED = "Change the owner or the mode of the folder, or name another folder"
_FULL = "Free some space"
_ADVICE = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: "Name a folder that can be written to",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.ENOTDIR: _TAKEN,
    errno.EEXIST: _TAKEN,
    errno.EISDIR: _TAKEN,
    errno.ENAMETOOLONG: "Give a shorter name",
    errno.ELOOP: "Delete the symbolic link of that name: none is followed there",
    errno.EMLINK: "Delete the link of that name: the file that it shares would be overwritten",
    errno.ENOENT: "Make the folder that is missing, or name another folder",
}


def advice(error: OSError) -> str:
    """What to do about an error of the system, by its number: a sentence without its full stop."""
    return _ADVICE.get(error.errno, "Mend that")


def open_own(path: Path) -> int:
    """The descriptor of a file of this program's own, which is made if there is none.

    It is not emptied. No symbolic link is followed, and no file is opened that has another name as
    well: neither leads to a file of somebody else.

    Raises:
        OSError: the file cannot be opened, or is such a link.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, how, 0o666)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "the file has another name as well", str(path))
    return descriptor


def create(path: Path) -> BinaryIO:
    """A new file; what had its name, perhaps of a run that died, is deleted."""
    remove(path)
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, how, 0o666), "wb")


def remove(path: Path) -> None:
    """Delete a file or a link, if there is one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def write_file(path: Path, text: str | bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with create(path) as file:
        file.write(text.encode() if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, text: str | bytes) -> None:
    """Write a file whole or not at all: what was there stays until all of it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(path) as unfinished:
        write_file(unfinished, text)
        os.replace(unfinished, path)


def try_file(path: Path) -> None:
    """Do all that ``replace_file`` will do, except to replace the file.

    Raises:
        OSError: a file cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_folder(path)
    with _unfinished(path) as unfinished, create(unfinished) as file:
        file.write(b"\n")


def refuse_folder(path: Path) -> None:
    """IsADirectoryError where a folder has the name of a file that is to be written."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _unfinished(path: Path) -> contextlib.AbstractContextManager[Path]:
    return removed_after(path.with_name(f".{path.name}-{os.getpid()}"))


@contextlib.contextmanager
def removed_after(path: Path) -> Iterator[Path]:
    """The path of a file that is whole under another name in the end, or deleted."""
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # the error that led here counts
            remove(path)


def hidden_folder(path: Path) -> Path:
    """A new hidden folder beside ``path``, whose mode is the umask's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    folder.mkdir()
    return folder


def try_folder(path: Path) -> None:
    """Make a hidden folder beside ``path`` with a file in it, and delete both.

    Raises:
        OSError: a folder cannot be made there.
    """
    folder = hidden_folder(path)
    try:
        with removed_after(folder / "tried") as tried, create(tried) as file:
            file.write(b"\n")
    finally:
        folder.rmdir()


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's list of names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def exchange(one: Path, other: Path) -> None:
    """Exchange the names of two folders, at once; OSError where the file system cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, ctypes.c_uint(2))  # RENAME_SWAP
    else:
        here = ctypes.c_int(-100)  # AT_FDCWD: paths are from the working directory
        failed = library.renameat2(here, names[0], here, names[1], ctypes.c_uint(2))
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))
