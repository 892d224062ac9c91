"""The terminal: closed streams, streams that cannot encode every character, progress bars."""

import contextlib
import os
import sys
from typing import TextIO

from tqdm import tqdm


def prepare_streams() -> None:
    """Make printing safe: replace what a stream cannot encode by "?", and ignore closed streams.

    A closed standard stream is opened on the null device, in the order of the descriptors.
    Otherwise the next opened file would get the free descriptor, and a library's messages would be
    written into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def drop_unread() -> None:
    """Discard buffered output that can no longer be written, so that the program exits quietly.

    The reader of the stream may have ended, or the disk may be full.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def shows_bar(progress: bool) -> bool:
    """Whether to show a progress bar: ``progress`` is True and standard error is a terminal."""
    return progress and sys.stderr is not None and sys.stderr.isatty()


def say(text: str) -> None:
    """Print a line on standard error and flush it; do nothing if the stream cannot be written.

    A failed message must not end the work that it reports.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def write_above(bar: tqdm, text: str, stream: TextIO | None) -> None:
    """Print a line above a progress bar; do nothing if the stream is closed."""
    if stream is not None:
        bar.write(text, file=stream)
