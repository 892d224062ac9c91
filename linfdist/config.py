"""Configurations as JSON: what config.json holds and what identifies a checkpoint."""

import dataclasses
import math
import types
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# Metadata of a field that came later: files from before it stay equal to what they would be now.
OMITTED_AT_DEFAULT: Mapping[str, bool] = types.MappingProxyType({"omitted_at_default": True})


def to_dict(value: Any) -> Any:
    """A configuration in JSON's types.

    A frozen dataclass becomes {"type": its name, field: …}, a ``Fraction`` "8/255", a tuple a list,
    ∞ "inf"; a field with ``OMITTED_AT_DEFAULT`` is left out at its default. ``from_dict`` is the
    inverse.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: to_dict(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.metadata != OMITTED_AT_DEFAULT or getattr(value, field.name) != field.default
        }
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, tuple | list):
        return [to_dict(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"to_dict: a configuration holds dataclasses, numbers, strings, tuples and None; got "
        f"{type(value).__name__} {value!r}."
    )


def from_dict(kind: Any, data: Any) -> Any:
    """The value of ``kind``, a dataclass or the type of one of its fields, that ``data`` holds."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return from_dict(_member(get_args(kind), data), data)
    if origin is tuple:
        members = get_args(kind)
        if members[-1] is Ellipsis:
            members = members[:1] * len(data)
        return tuple(from_dict(member, item) for member, item in zip(members, data, strict=True))
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = {name: item for name, item in data.items() if name != "type"}
        unknown = sorted(set(fields) - set(hints))
        if data.get("type") != kind.__name__ or unknown:
            raise ValueError(
                f"from_dict: {kind.__name__} must have that type and the fields "
                f"{', '.join(hints)}; got type {data.get('type')!r} and unknown fields {unknown}."
            )
        return kind(**{name: from_dict(hints[name], item) for name, item in fields.items()})
    if kind in (Fraction, float):
        return kind(data)
    if origin is Literal or kind in (int, str, bool, type(None)):
        return data
    raise TypeError(f"from_dict: no rule for the type {kind!r} of {data!r}.")


def _member(members: tuple[Any, ...], data: Any) -> Any:
    """The member of a union that ``data`` is of: None, or the dataclass that it names."""
    if data is None:
        return type(None)
    members = tuple(member for member in members if member is not type(None))
    if isinstance(data, Mapping):
        for member in members:
            if getattr(member, "__name__", None) == data.get("type"):
                return member
    if len(members) > 1:
        names = ", ".join(member.__name__ for member in members)
        raise ValueError(f"from_dict: expected one of {names}; got {data!r}.")
    return members[0]
