"""Sizes that layers are given."""

import operator
from typing import SupportsIndex


def integer(layer: str, name: str, value: SupportsIndex, *, least: int | None = 1) -> int:
    """Any integer, numpy's too, as a Python number.

    Raises TypeError for anything else, ValueError for one below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{layer}: {name} must be an integer; got {value!r}. Convert it with int()."
        ) from None
    if least is not None and number < least:
        raise ValueError(f"{layer}: {name} must be at least {least}; got {number}.")
    return number
