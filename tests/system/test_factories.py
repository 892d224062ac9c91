"""Tensors are made on a device that is said: torch's default may be another than the data's."""

import ast
from pathlib import Path

import pytest

import linfdist

ROOT = Path(linfdist.__file__).parent
FACTORIES = {
    *("zeros", "ones", "empty", "full", "eye", "arange", "linspace", "logspace", "tensor"),
    *("rand", "randn", "randint", "randperm", "normal", "as_tensor", "scalar_tensor"),
}


def factories(path):
    """The calls of torch's factories in a file, but for those in constructors of layers."""
    stack = [(ast.parse(path.read_text()), False)]
    while stack:
        node, building = stack.pop()
        building = building or (isinstance(node, ast.FunctionDef) and node.name == "__init__")
        called = node.func if isinstance(node, ast.Call) else None
        of_torch = isinstance(called, ast.Attribute) and ast.unparse(called.value) == "torch"
        if of_torch and called.attr in FACTORIES and not building:
            yield node
        stack += [(child, building) for child in ast.iter_child_nodes(node)]


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_factory_says_its_device(path):
    """In theory/ only what draws from a generator: the rest may be on torch's default."""
    for call in factories(path):
        named = {word.arg for word in call.keywords}
        if "theory" in path.parts and "generator" not in named:
            continue
        assert named & {"device", None}, f"{path}:{call.lineno}: {ast.unparse(call)}"


def test_the_factories_are_found():
    assert sum(len([*factories(path)]) for path in FILES) > 30
