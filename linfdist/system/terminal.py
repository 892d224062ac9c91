"""The terminal: closed streams, streams that cannot show every letter, and progress bars."""

import contextlib
import os
import sys
from typing import TextIO

from tqdm import tqdm


def prepare_streams() -> None:
    """Make printing safe: a letter that a stream has not becomes "?", a closed stream says nothing.

    A standard stream that is closed is opened on the null device, from the lowest number on: else
    its number would go to the next file that is opened, and a library's messages into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def drop_unread() -> None:
    """Throw away what a stream still holds that can no longer be written, so that the end is quiet.

    Its reader has gone, or its disk is full.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def shows_bar(progress: bool) -> bool:
    """Whether a progress bar is shown: it is wanted, and standard error is a terminal."""
    return progress and sys.stderr is not None and sys.stderr.isatty()


def say(text: str) -> None:
    """A line on standard error, at once; nothing where that is closed or cannot be written.

    What is said must not end the work that it is about.
    """
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def write_above(bar: tqdm, text: str, stream: TextIO | None) -> None:
    """A line above a bar; nothing where the stream is closed."""
    if stream is not None:
        bar.write(text, file=stream)
