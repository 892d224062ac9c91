"""Walk the arguments of public functions: what is refused must be refused by the caller's name."""

import dataclasses
import inspect
import types

import pandas as pd
import torch


def functions_of(module):
    """The public functions that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }


def parameters_of(function):
    """The names of a function's parameters; a decorated one's own."""
    return list(inspect.signature(function).parameters)


def refusal(call, prefix, errors=(TypeError, ValueError)):
    """None if a call is refused by an error of this package that names the caller; else what came.

    Errors of torch and Python name neither.
    """
    try:
        call()
    except errors as error:
        return None if str(error).startswith(prefix) else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def same(first, second):
    """Whether two results are equal: tensors, numbers, tables, and what holds them."""
    if isinstance(first, torch.Tensor):
        # An infinity is equal to itself; a NaN, where there is one, stands in both.
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and bool(((first == second) | (first.isnan() & second.isnan())).all())
        )
    if isinstance(first, pd.DataFrame):
        return first.equals(second)
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        return all(same(getattr(first, name), getattr(second, name)) for name in names)
    if isinstance(first, tuple | list):
        pairs = zip(first, second, strict=True)
        return len(first) == len(second) and all(same(one, other) for one, other in pairs)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, types.FunctionType):
        return True
    return first == second
