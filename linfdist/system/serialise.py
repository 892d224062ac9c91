"""Configurations as JSON: the content of config.json and the identity of a checkpoint.

msgspec cannot read a union of dataclasses. cattrs needs about as many lines, cuts 64.5 to 64 where
an int belongs, and raises groups of exceptions whose text names no field.
"""

import dataclasses
import math
import numbers
import types
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from linfdist.system.values import shown, whole

# Metadata of a field added later: JSON written before the field existed equals today's at default.
OMITTED_AT_DEFAULT: Mapping[str, bool] = types.MappingProxyType({"omitted_at_default": True})

T = TypeVar("T")
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def check_fields(config: Any, ranged: Collection[str] = ()) -> None:
    """Convert every field of a frozen dataclass to its declared type, or refuse it by name.

    Call this first in ``__post_init__``. A configuration that passes can be compared, recorded and
    read again. Numpy numbers become Python numbers, and lists become tuples. Numbers must be
    finite, except in the ``ranged`` fields, whose range the class checks itself.

    Raises:
        TypeError: a value has another type: True for a number, "0.1" for a Fraction, 64 for a
            tuple.
        ValueError: a value is NaN or ∞, a tuple has the wrong length, or a value is none of the
            field's literals.
    """
    owner = type(config).__name__
    for name, kind in _hints(type(config)).items():
        value = _checked(kind, getattr(config, name), f"{owner}: {name}", name not in ranged)
        object.__setattr__(config, name, value)


def _checked(kind: Any, value: Any, what: str, finite: bool) -> Any:
    """``value`` converted to ``kind``, the type of a field; ``what`` names the field in errors."""
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in members:
            return None
        members = tuple(member for member in members if member is not type(None))
        if len(members) == 1:
            return _checked(members[0], value, what, finite)
        kind = members
    if origin is Literal:
        if not isinstance(value, str) or value not in members:
            raise ValueError(f"{what} must be one of {', '.join(members)}; got {value!r}.")
        return value
    if origin is tuple:
        return _checked_tuple(members, value, what, finite)
    if kind is int:
        return whole(value, what, least=None)
    if kind in (float, Fraction):
        return _checked_number(kind, value, what, finite)
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(_NAMES.get(one, one.__name__) for one in kinds)
        raise TypeError(f"{what} must be {wanted}; got {shown(value)}.")
    return value


_NAMES: Mapping[type, str] = types.MappingProxyType({bool: "True or False", str: "text"})
_COUNTS: Mapping[int, str] = types.MappingProxyType({2: "two", 3: "three"})


def _checked_number(kind: type, value: Any, what: str, finite: bool) -> Any:
    """``value`` as an int or a float, exactly; if ``kind`` is Fraction, possibly as a Fraction."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        advice = " Write Fraction(8, 255) or 8 / 255." if kind is Fraction else ""
        raise TypeError(f"{what} must be a number; got {shown(value)}.{advice}")
    try:
        number = float(value)
    except OverflowError:
        number, finite = math.inf, True
    if not isinstance(value, numbers.Rational) and number == number and number != value:
        raise TypeError(f"{what} must be a number that float64 can hold; got {shown(value)}.")
    if finite and not math.isfinite(number):
        raise ValueError(f"{what} must be a finite number; got {value}.")
    if isinstance(value, numbers.Integral) and (kind is Fraction or number == value):
        return int(value)
    if kind is Fraction and isinstance(value, numbers.Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    return number


def _checked_tuple(members: tuple[Any, ...], value: Any, what: str, finite: bool) -> tuple:
    several = members[-1] is Ellipsis
    count = "" if several else f"{_COUNTS.get(len(members), len(members))} "
    if not isinstance(value, tuple | list):
        raise TypeError(f"{what} must be a tuple of {count or 'some '}values; got {shown(value)}.")
    if several:
        members = members[:1] * len(value)
    if len(value) != len(members):
        raise ValueError(f"{what} must be {count}numbers; got {value}.")
    return tuple(
        _checked(member, item, what, finite) for member, item in zip(members, value, strict=True)
    )


def serialised_as(name: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: JSON calls the class ``name``, so that renaming it changes no record."""

    def decorate(kind: type[T]) -> type[T]:
        _SERIALISED_NAMES[kind] = name
        return kind

    return decorate


_SERIALISED_NAMES: dict[type, str] = {}


def _serialised_name(kind: type) -> str:
    return _SERIALISED_NAMES.get(kind, kind.__name__)


def to_dict(value: Any) -> Any:
    """A configuration in JSON's types. ``from_dict`` is the inverse.

    - A frozen dataclass becomes {"type": its name, field: …}; see ``serialised_as``.
    - A ``Fraction`` becomes text such as "8/255".
    - A tuple becomes a list.
    - ∞ becomes "inf".
    - A field with ``OMITTED_AT_DEFAULT`` is left out if it has its default value.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: to_dict(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.metadata != OMITTED_AT_DEFAULT or getattr(value, field.name) != field.default
        }
        return {"type": _serialised_name(type(value)), **fields}
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
    """Read a value of ``kind`` from ``data``: a dataclass, or the type of one of its fields.

    Raises:
        TypeError: a value has another type, such as 64 for a tuple, or a field is missing.
        ValueError: a value is no number or none of the declared dataclasses, or a field is unknown.
    """
    return _read(kind, data, f"from_dict: {getattr(kind, '__name__', kind)}")


def _read(kind: Any, data: Any, what: str) -> Any:
    """``from_dict``; ``what`` names the value in errors, such as "from_dict: TrainConfig.lr"."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read(_member(get_args(kind), data, what), data, what)
    if origin is tuple:
        return _read_tuple(get_args(kind), data, what)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, what)
    if kind in (Fraction, float):
        return _read_number(kind, data, what)
    if origin is Literal or kind in (int, str, bool, type(None)):
        return data
    raise TypeError(f"{what} must have a type that JSON can hold; no rule for the type {kind!r}.")


def _read_tuple(members: tuple[Any, ...], data: Any, what: str) -> tuple:
    if not isinstance(data, list | tuple):
        raise TypeError(f"{what} must be a list; got {shown(data)}.")
    if members[-1] is Ellipsis:
        members = members[:1] * len(data)
    if len(data) != len(members):
        raise ValueError(f"{what} must be a list of {len(members)} values; got {shown(data)}.")
    return tuple(_read(member, item, what) for member, item in zip(members, data, strict=True))


def _read_dataclass(kind: type, data: Any, what: str) -> Any:
    if not isinstance(data, Mapping):
        raise TypeError(f"{what} must be a dictionary of fields; got {shown(data)}.")
    hints = _hints(kind)
    fields = {name: item for name, item in data.items() if name != "type"}
    unknown = sorted(set(fields) - set(hints))
    name = _serialised_name(kind)
    if data.get("type") != name or unknown:
        raise ValueError(
            f"from_dict: {kind.__name__} must have the type {name!r} and the fields "
            f"{', '.join(hints)}; got type {data.get('type')!r} and unknown fields {unknown}."
        )
    return kind(
        **{
            name: _read(hints[name], item, f"from_dict: {kind.__name__}.{name}")
            for name, item in fields.items()
        }
    )


def _read_number(kind: type[Fraction] | type[float], data: Any, what: str) -> Any:
    if isinstance(data, bool) or not isinstance(data, int | float | str):
        raise TypeError(f"{what} must be a number or its text; got {shown(data)}.")
    try:
        return kind(data)
    except (ValueError, ArithmeticError) as error:
        raise ValueError(f"{what} must be a number; got {shown(data)}.") from error


def _member(members: tuple[Any, ...], data: Any, what: str) -> Any:
    """The member of a union to which ``data`` belongs: None, or the dataclass that it names."""
    if data is None:
        return type(None)
    members = tuple(member for member in members if member is not type(None))
    if isinstance(data, Mapping):
        for member in members:
            named = isinstance(member, type) and dataclasses.is_dataclass(member)
            if named and _serialised_name(member) == data.get("type"):
                return member
    if len(members) > 1:
        names = ", ".join(member.__name__ for member in members)
        raise ValueError(f"{what} must be one of {names}; got {data!r}.")
    return members[0]
