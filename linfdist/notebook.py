"""What the notebooks need to refuse a misspelt parameter, and a value of another type."""

import ast
from collections.abc import Sequence
from typing import Any

from linfdist.system.names import unknown


class UnknownParameter(ValueError):
    """A notebook was given a parameter that it does not have."""


class WrongParameter(TypeError):
    """A notebook was given a value of another type than the parameter's own."""


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that the notebook cannot take; call it as ``check_parameters(In)``.

    papermill puts the parameters that it is given into a cell of their own. A misspelt one has no
    effect there. It takes "false" and "no" for text, which counts as true in a condition. The first
    code cell must be the notebook's own parameters, each with a literal as its default. What
    papermill's cell assigns must be among them and of the default's type: True or False; a whole
    number; a number, which may be whole; text; or a tuple or list of such values.

    Raises:
        UnknownParameter: naming the unknown parameter, what was probably meant, and all there are.
        WrongParameter: naming the parameter, the type that it has, and the value.
    """
    executed = [cell for cell in cells if cell.strip()]  # IPython's In[0] is empty
    known = {name: ast.literal_eval(value) for name, value in _assigned(executed[0])}
    # papermill heads its cell with this comment.
    injected = [cell for cell in executed[1:-1] if cell.startswith("# Parameters")]
    given = [pair for cell in injected for pair in _assigned(cell)]
    for name, _ in given:
        if name not in known:
            raise UnknownParameter(unknown("parameter", name, known))
    for name, value in given:
        _check(name, known[name], value)


def _check(name: str, default: Any, given: ast.expr) -> None:
    try:
        value = ast.literal_eval(given)
    except ValueError:  # no literal, such as float("nan")
        value = given
    if not _is_of(default, value):
        raise WrongParameter(
            f"Parameter {name!r} must be {_kind(default)}, such as {default!r}; got "
            f"{ast.unparse(given)}.{_advice(default)}"
        )


def _is_of(default: Any, value: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple | list) and all(_is_of(default[0], one) for one in value)
    if isinstance(default, float):
        return type(value) in (int, float)
    return type(value) is type(default)


def _kind(default: Any) -> str:
    if isinstance(default, tuple):
        return f"a tuple or list of values, each {_kind(default[0])}"
    kinds = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    return kinds[type(default)]


def _advice(default: Any) -> str:
    """What papermill's command line must be given instead."""
    if isinstance(default, bool):
        return " papermill takes -p NAME True, with a capital letter."
    if isinstance(default, str):
        return " papermill takes -r NAME VALUE for text that looks like a number."
    return ""


def _assigned(cell: str) -> list[tuple[str, ast.expr]]:
    """The plain names that a cell's assignments bind, and what to."""
    found = []
    for statement in ast.parse(cell).body:
        if isinstance(statement, ast.Assign):
            targets = statement.targets
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        else:
            continue
        found += [
            (target.id, statement.value) for target in targets if isinstance(target, ast.Name)
        ]
    return found
