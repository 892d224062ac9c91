"""Imports point one way; a module that points back is named."""

import ast
from pathlib import Path

import pytest

import linfdist

pytestmark = pytest.mark.quick

ROOT = Path(linfdist.__file__).parent
# From the bottom up; a module may import from its own rank and the ranks before it.
RANKS = (
    ("system", "ops"),
    ("data", "records", "nn"),
    ("optim", "robust", "baselines"),
    ("evaluation", "theory"),
    ("training",),
    ("experiments",),
    ("bench",),
    ("report", "notebook", "testing"),
    ("cli",),
    ("__main__", "__init__"),
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
FILES = sorted(ROOT.rglob("*.py"))


def top_level(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imported(path: Path) -> set[str]:
    """Top-level parts of linfdist that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "linfdist":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("linfdist."):
                found.add(top_level(node.module))
        elif isinstance(node, ast.Import):
            found |= {top_level(a.name) for a in node.names if a.name.startswith("linfdist.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = path.relative_to(ROOT).with_suffix("").parts[0]
    assert own in RANK, f"{own} has no place in RANKS: say where it stands"
    backwards = sorted(name for name in imported(path) if RANK.get(name, -1) > RANK[own])
    assert not backwards, f"{path.relative_to(ROOT)} imports {backwards}, which stand above {own}"
