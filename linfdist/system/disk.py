"""Files and folders on disk.

The functions here write files atomically, test before the work whether a write will succeed, open
files without following links, and say what to do about an error.
"""

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

_TAKEN = "Move the file or folder of that name away, or choose another folder"
_DENIED = "Change the owner or the mode of the folder, or choose another folder"
_FULL = "Free some space"
_ADVICE = {
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: "Choose a folder that can be written to",
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.ENOTDIR: _TAKEN,
    errno.EEXIST: _TAKEN,
    errno.EISDIR: _TAKEN,
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "Delete the symbolic link of that name: linfdist does not follow links there",
    errno.EMLINK: "Delete the link of that name: writing would overwrite the file that it shares",
    errno.ENOENT: "Create the missing folder, or choose another folder",
}


def advice(error: OSError) -> str:
    """What to do about an OSError, by its errno: a sentence without its full stop."""
    return _ADVICE.get(error.errno or 0, "Remove the cause and try again")


def open_own(path: Path) -> int:
    """Open a file that belongs to this program and return its descriptor.

    The file is created if it does not exist, and its content is kept if it does. Symbolic links
    and files with a second hard link are refused, because they could lead to another user's file.

    Raises:
        OSError: the file cannot be opened, is a symbolic link or has a second hard link.
    """
    how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, how, 0o666)
    try:
        refuse_second_link(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def refuse_second_link(descriptor: int, path: Path) -> None:
    """Raise OSError if the open file has another hard link: it could be another user's file."""
    if os.fstat(descriptor).st_nlink > 1:
        raise OSError(errno.EMLINK, "the file has a second hard link", str(path))


def create(path: Path) -> BinaryIO:
    """Create a file. An existing file of that name, perhaps left by a killed run, is deleted."""
    remove(path)
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, how, 0o666), "wb")


def remove(path: Path) -> None:
    """Delete a file or a link, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def write_file(path: Path, text: str | bytes) -> None:
    """Write a new file and wait until its content is on the disk."""
    with create(path) as file:
        file.write(text.encode() if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, text: str | bytes) -> None:
    """Write a file atomically: the previous file stays until the new one is wholly on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _unfinished(path) as unfinished:
        write_file(unfinished, text)
        os.replace(unfinished, path)


def try_file(path: Path) -> None:
    """Take every step of ``replace_file`` except the replacement itself.

    Raises:
        OSError: a file cannot be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_folder(path)
    with _unfinished(path) as unfinished, create(unfinished) as file:
        file.write(b"\n")


def refuse_folder(path: Path) -> None:
    """Raise IsADirectoryError if ``path``, where a file is to be written, is a folder."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _unfinished(path: Path) -> contextlib.AbstractContextManager[Path]:
    return removed_after(path.with_name(f".{path.name}-{os.getpid()}"))


@contextlib.contextmanager
def removed_after(path: Path) -> Iterator[Path]:
    """Delete the file at ``path`` at the end, unless it has been renamed by then."""
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):  # an earlier error must not be hidden
            remove(path)


def hidden_folder(path: Path) -> Path:
    """Make a hidden folder beside ``path``; its mode follows the umask."""
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
    """Wait until the folder's list of names is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def swap_folders(one: Path, other: Path) -> None:
    """Exchange two folders atomically; raises OSError if the file system cannot do so."""
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, ctypes.c_uint(2))  # RENAME_SWAP
    else:
        here = ctypes.c_int(-100)  # AT_FDCWD: paths start at the working directory
        failed = library.renameat2(here, names[0], here, names[1], ctypes.c_uint(2))
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))
