"""Convert the values of callers to plain Python values, or refuse them by name before any work."""

import json
import numbers
import operator
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

SEEDS = 2**63  # torch's generators take no larger seed


def whole(value: Any, what: str, least: int | None = 0) -> int:
    """``value``, an integer of Python or numpy, as an int.

    ``what`` names the value in errors: "fit: seed".

    Raises:
        TypeError: ``value`` is not a whole number but, for example, a bool, a float or text.
        ValueError: ``value`` is below ``least``.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise TypeError(f"{what} must be a whole number; got {shown(value)}.")
    if least is not None and number < least:
        raise ValueError(f"{what} must be at least {least}; got {number}.")
    return number


def seed(value: Any, caller: str) -> int:
    """``value`` as a seed: a whole number from 0 that torch's generators take."""
    number = whole(value, f"{caller}: seed")
    if number >= SEEDS:
        raise ValueError(f"{caller}: seed must be below 2**63; got {number}.")
    return number


def flag(value: Any, what: str) -> bool:
    """``value``, which must be True or False: in a condition the text "false" counts as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be True or False; got {shown(value)}.")
    return value


def seconds(value: Any, what: str) -> float | None:
    """``value`` as a number of seconds above 0; None, which means no limit, stays None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number of seconds or None; got {shown(value)}.")
    number = float(value)
    if not number > 0:
        raise ValueError(f"{what} must be above 0; got {value}. Pass None for no limit.")
    return number


def file(value: Any, what: str) -> Path:
    """``value``, text or a path, as a path with ``~`` replaced by the home folder.

    Raises:
        TypeError: ``value`` is neither text nor a path.
        ValueError: ``value`` begins with ``~``, and the home folder does not exist.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{what} must be a path, as text or a Path; got {shown(value)}.")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{what} must lie in a known folder; the home folder of {os.fspath(value)} is "
            "unknown. Write the whole path."
        ) from error


def plain(value: Any, what: str) -> Any:
    """``value`` in JSON's own types, so that it can be saved and read again.

    A checkpoint could hold a numpy number, but reading it back would run code. ``what`` names the
    value in errors.

    Raises:
        TypeError: JSON cannot hold ``value``.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} must be plain values, which can be saved: numbers, text, lists, dictionaries "
            f"and None; got {value!r} ({error})."
        ) from error


def shown(value: Any) -> str:
    """A short text of a value and its type, for an error message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
