"""The table of claims is whole, and what it points at exists."""

import ast
from pathlib import Path

import pytest
import yaml

from linfdist.theory.claims import CLAIMS, table

TESTS = Path(__file__).resolve().parents[1]
BOOK = TESTS.parent / "book"
# Every numbered statement of the paper and its appendices, in its order.
NUMBERED = (
    *("Remark 3.1", "Definition 3.2", "Definition 3.3", "Fact 3.4", "Remark 3.5", "Fact 3.6"),
    *("Theorem 4.1", "Theorem 4.2", "Lemma A.1", "Proposition A.2", "Lemma A.3", "Lemma A.4"),
    *("Lemma A.5", "Lemma A.6", "Lemma A.7", "Lemma A.8", "Remark A.9"),
)


def test_every_numbered_statement_is_there_once():
    assert [claim.name for claim in CLAIMS if claim.name in NUMBERED] == list(NUMBERED)
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_it_points_at_exists(claim):
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    pages = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert claim.page in pages
    for test in claim.tests:
        file, _, name = test.partition("::")
        assert name in functions(TESTS / file), f"{test} is no test"
    assert claim.tests or claim.verdict in ("definition", "quoted")
    assert claim.note or claim.verdict in ("definition", "holds", "quoted")


def test_the_table_has_a_row_for_each():
    shown = table()
    assert list(shown["claim"]) == [claim.name for claim in CLAIMS]
    assert list(shown["verdict"]) == [claim.verdict for claim in CLAIMS]
