"""Arguments and argument types that several commands share."""

import argparse
import math
from enum import IntEnum
from pathlib import Path

from linfdist.records import RecordError
from linfdist.records.files import expanded
from linfdist.system.values import SEEDS


class Exit(IntEnum):
    """The exit codes of the commands."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    OUT_OF_TIME = 3
    INTERRUPTED = 130  # by Ctrl-C or SIGTERM


def add_scale(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add ``--scale``; without a default, the command takes all scales."""
    from linfdist.experiments import SCALES

    scales = "; ".join(f"{name}: {text}" for name, text in SCALES.items())
    what = f"default: {default}" if default else "only this scale; default: all"
    parser.add_argument("--scale", default=default, help=f"{what}. {scales}")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", help="cpu, cuda or cuda:1; default: the GPU, else the CPU")


def count(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def several(text: str) -> int:
    """A whole number of at least 2."""
    return _whole(text, 2)


def seed(text: str) -> int:
    """A whole number that torch's generators accept as a seed."""
    number = count(text)
    if number >= SEEDS:
        raise argparse.ArgumentTypeError(f"must be below 2**63; got {text!r}")
    return number


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0; got {text!r}")
    return number


def file(text: str) -> Path:
    """A path, in which ~ stands for the home folder."""
    try:
        return expanded(text)
    except RecordError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least {least}; got {text!r}"
        )
    return int(text)
