"""Values that callers pass: as plain Python ones, or refused by name before anything is done."""

import operator
from typing import Any

import numpy as np
from torch import Tensor

SEEDS = 2**63  # torch's generators take no more


def whole(value: Any, what: str, least: int | None = 0) -> int:
    """``value`` as an int; integers of numpy too. ``what`` names it in errors: "fit: seed".

    Raises:
        TypeError: it is no whole number: a bool, a float or text.
        ValueError: it is below ``least``.
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


def shown(value: Any) -> str:
    """A value and its type in few characters, for an error."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}, {value.dtype}"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
