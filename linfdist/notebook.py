"""Check the parameters of a notebook: refuse misspelt names and values of the wrong type."""

import ast
from collections.abc import Sequence
from typing import Any

from linfdist.system.names import unknown


class UnknownParameter(ValueError):
    """papermill set a parameter that the notebook does not have."""


class WrongParameter(TypeError):
    """papermill set a parameter to a value of the wrong type."""


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that the notebook cannot take; call it as ``check_parameters(In)``.

    papermill writes the parameters of its command line into a cell of their own. There, a misspelt
    parameter has no effect, and "false" and "no" are text, which counts as true in a condition.

    The notebook's first code cell must assign its own parameters, each with a literal as its
    default. papermill's cell may only assign these parameters, with values of the default's type:

    - True or False;
    - a whole number;
    - a number, which may be whole;
    - text;
    - a tuple or list of such values.

    Raises:
        UnknownParameter: names the unknown parameter, the closest matches and all parameters.
        WrongParameter: names the parameter, its type and the value.
    """
    executed = [cell for cell in cells if cell.strip()]  # IPython's In[0] is empty
    known = {name: ast.literal_eval(value) for name, value in _assigned(executed[0])}
    # papermill's cell begins with this comment.
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
    except ValueError:  # not a literal, such as float("nan")
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
    """How to pass such a value on papermill's command line."""
    if isinstance(default, bool):
        return " papermill takes -p NAME True, with a capital letter."
    if isinstance(default, str):
        return " papermill takes -r NAME VALUE for text that looks like a number."
    return ""


def _assigned(cell: str) -> list[tuple[str, ast.expr]]:
    """The plain names that a cell's assignments bind, each with its expression."""
    cells = []
    for statement in ast.parse(cell).body:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        cells += [(target.id, value) for target in targets if isinstance(target, ast.Name)]
    return cells
