"""Adding a table takes one file, one line and one notebook; the rest follows from the object."""

from importlib import import_module
from pathlib import Path

import pytest

from linfdist import experiments, report
from linfdist.cli import main
from linfdist.experiments import AnyTable, Comparison, PaperNumbers, QuotedRow, Table
from linfdist.report.tables import RENDERERS

ROOT = Path(__file__).resolve().parents[2]
NET, NET_MLP, NET_LSE = map(
    experiments.get, ("table1/mnist_net", "table1/mnist_net_mlp", "table1/mnist_net_lse")
)


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A tenth table, beside the paper's nine."""
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    quoted = QuotedRow(
        title="Another method",
        dataset="mnist",
        paper=PaperNumbers.percent("1.5M", 91.5, 52.5, 43.5),
        reason="it is made up",
    )
    table = Table(
        number=10,
        title="Table 10. A table that is thrown away",
        rows=(NET, NET_MLP),
        added=(NET_LSE,),
        quoted=(quoted,),
        repeated=(experiments.get("table1/mnist_ibp"),),
        methods=(quoted.title,),
        comparisons=(Comparison(title="head: yes − no", before=NET, after=NET_MLP),),
    )
    monkeypatch.setattr(experiments, "TABLES", {**experiments.TABLES, table.number: table})
    return table


def test_a_new_table_is_rendered_everywhere(added):
    frame = report.table(10)
    titles = [added.quoted[0].title, added.repeated[0].title, NET.title, NET_MLP.title]
    assert frame["method"].tolist() == [*titles, NET_LSE.title]
    assert frame["source"].tolist() == ["quoted"] + ["this code"] * 4
    assert frame["status"][0] == "quoted: it is made up"
    text, html = report.text(10), report.show(10).to_html()
    assert text.startswith(f"{added.title} (accuracies in percent)\n")
    assert "Another method, MNIST: quoted: it is made up" in text
    for shown in (text, html):
        assert "43.50" in shown and "92.64" in shown


def test_a_new_table_is_in_the_ledger(added):
    claims = report.ledger().query("table == 10")
    by_kind = claims.groupby("kind")["claim"].agg(list)
    rows = ("Another method", NET.title, NET_MLP.title)
    assert by_kind["accuracy"] == [
        f"MNIST, {row}: {name}" for row in rows for name in ("test", "robust", "certified")
    ]
    assert by_kind["difference"] == [f"MNIST, {NET_MLP.title}, head: yes − no: certified"]
    assert by_kind["FLOPs"] == [f"MNIST, {row}: FLOPs" for row in rows[1:]]
    assert '<a href="tables/table10.html">10</a>' in report.show_ledger(claims).to_html()


def test_the_command_lists_a_new_table(added, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["table", "--help"])
    listed = " ".join(capsys.readouterr().out.split())
    assert "1, 2, 3, 7, 9, 10 (results), 4 (times), 5, 8 (networks) or 6 (settings)" in listed
    assert main(["table", "10", "--scale", "smoke"]) == 0
    assert "Another method" in capsys.readouterr().out


def test_every_table_module_is_listed_by_its_number():
    files = (ROOT / "linfdist" / "experiments").glob("table[0-9]*.py")
    modules = {int(path.stem.removeprefix("table")): path.stem for path in files}
    assert sorted(modules) == list(experiments.TABLES)
    for number, name in modules.items():
        table = experiments.TABLES[number]
        assert import_module(f"linfdist.experiments.{name}").TABLE is table
        assert table.title.startswith(f"Table {number}. ")


def test_every_kind_of_table_has_a_renderer_and_a_name_of_its_own():
    kinds = AnyTable.__args__
    assert set(RENDERERS) == set(kinds)
    assert len({kind.kind for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("number", experiments.TABLES)
def test_every_table_is_shown_in_the_book(number):
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "book" / "tables").iterdir()]
    shown = [f"report.{name}({number}{end}" for name in ("show", "table") for end in (",", ")")]
    assert any(call in page for page in pages for call in shown)
