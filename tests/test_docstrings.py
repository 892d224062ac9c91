"""Docstrings list the parameters of long signatures, all of them and in order."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import linfdist

ROOT = Path(linfdist.__file__).parent
FEW = 4  # parameters that prose can explain
Function = ast.FunctionDef | ast.AsyncFunctionDef


def parameters(function: Function) -> list[str]:
    """The names of a function's parameters as a caller sees them."""
    given = function.args
    names = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [name.arg for name in names if name and name.arg not in ("self", "cls")]


def fields(owner: ast.ClassDef) -> list[str]:
    """The parameters of a configuration, a dataclass; none for another class."""
    if not owner.name.endswith("Config"):
        return []
    named = [part.target for part in owner.body if isinstance(part, ast.AnnAssign)]
    return [target.id for target in named if target.id != "_"]


def listed(docstring: str) -> list[str]:
    """The names that an ``Args:`` list explains; a line may explain several."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\S[^:]*):", section[1], re.MULTILINE) if section else []
    return [name.strip("*` ") for entry in entries for name in entry.split(",")]


def documented(tree: ast.Module) -> Iterator[tuple[str, list[str], str]]:
    """Public functions, methods and configurations: name, parameters and docstring.

    A class whose docstring lists its ``__init__``'s parameters stands for the ``__init__``.
    """

    def visit(body: list[ast.stmt], prefix: str, owner: str) -> Iterator[tuple[str, list, str]]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                its = ast.get_docstring(node) or ""
                yield f"{prefix}{node.name}", fields(node), its
                yield from visit(node.body, f"{prefix}{node.name}.", its)
            elif isinstance(node, Function) and (
                node.name == "__init__" or not node.name.startswith("_")
            ):
                own = ast.get_docstring(node) or ""
                text = own if node.name != "__init__" or listed(own) else owner
                yield f"{prefix}{node.name}", parameters(node), text

    yield from visit(tree.body, "", "")


def faults(source: str) -> list[str]:
    """What has more than FEW parameters and a list that is not the signature."""
    return [
        f"{name} has the parameters {given}; its Args: list has {listed(text)}"
        for name, given, text in documented(ast.parse(source))
        if len(given) > FEW and listed(text) != given
    ]


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_long_signature_is_explained_parameter_by_parameter_in_its_order(path):
    assert faults(path.read_text()) == []


LISTED = '''
def f(a, b, *c, d=1, **e):
    """What f does.

    Args:
        a, b: two numbers:

            - a: not an entry
        c: more, with a: colon.
        d: an option.
        e: others.

    Returns:
        x: a number.
    """
'''


def test_a_list_that_lacks_an_entry_or_has_another_order_is_found():
    assert faults(LISTED) == []
    for fault in (
        LISTED.replace("        d: an option.\n", ""),
        LISTED.replace("a, b: two", "b, a: two"),
        LISTED.replace("        e: others.", "        e: others.\n        g: no parameter."),
        LISTED.replace("Args:", "With:"),
        "class A:\n    def __init__(self, a, b, c, d, e): pass",
        "class AConfig:\n    a: int\n    b: int\n    c: int\n    d: int\n    e: int",
    ):
        assert len(faults(fault)) == 1, fault
    assert faults(LISTED.replace("def f", "def _f").replace("Args:", "With:")) == []
    assert faults("def f(a, b, c, d): pass") == []
