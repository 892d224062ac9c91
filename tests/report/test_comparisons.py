"""What a change is worth, from records; and the tables that have other columns than Table 1."""

import pandas as pd
import pytest
from helpers import made_records

from linfdist import experiments, report
from linfdist.experiments import table3, table7


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    (tmp_path / "weights.pt").write_bytes(b"weights")
    return tmp_path


def record(folder, name, certified, *, seed=0, train=0.5):
    made_records.record(
        folder,
        name,
        "reduced",
        seed,
        certified=certified,
        flops=930816,
        epochs=[{"epoch": 1, "train_accuracy": 0.1}, {"epoch": 2, "train_accuracy": train}],
    )


def test_without_records_there_are_the_papers_effects_alone():
    found = report.effects(table3.TABLE.comparisons)
    points = (100 * found["paper"]).round(2).tolist()
    assert points == [25.54, 0.15, -3.70, 0.59, 1.95, 5.31, -2.53, 0.40]
    assert found["here"].isna().all()
    assert set(found["as in the paper"]) == {"not yet run"} and set(found["seeds"]) == {0}
    html = report.show_effects(table3.TABLE.comparisons).to_html()
    assert "+25.54" in html and "-3.70" in html and "nan" not in html.lower()


def test_an_effect_is_the_difference_of_means(folders):
    record(folders, "table3/a_net", 0.10)
    record(folders, "table3/b_net", 0.30)
    record(folders, "table3/b_net", 0.34, seed=1)
    record(folders, "table3/c_net", 0.28)
    smoothed, identity, *others = report.effects(table3.TABLE.comparisons).to_dict("records")
    assert smoothed["here"] == pytest.approx(0.22) and identity["here"] == pytest.approx(-0.04)
    assert pd.isna(smoothed["sd"])  # of one seed there is none
    assert (smoothed["seeds"], identity["seeds"]) == (1, 1)
    assert [smoothed["as in the paper"], identity["as in the paper"]] == ["yes", "no"]
    assert {row["as in the paper"] for row in others} == {"not yet run"}
    record(folders, "table3/a_net", 0.14, seed=1)
    smoothed = report.effects(table3.TABLE.comparisons).iloc[0]
    assert smoothed["here"] == pytest.approx(0.20)
    assert smoothed["sd"] == pytest.approx((0.0008 + 0.0008) ** 0.5)
    assert "+20.00 ± 4.00" in report.show_effects(table3.TABLE.comparisons).to_html()


def test_table7s_effects_are_of_training_accuracy(folders):
    for name, train in (("gaussian_7", 0.4), ("gaussian_10", 0.3), ("identity_10", 0.45)):
        record(folders, f"table7/{name}", 0.1, train=train)
    found = report.effects(table7.TABLE.comparisons).set_index("change")
    assert (100 * found["paper"].iloc[:2]).round(2).tolist() == [-5.10, 2.26]
    assert found["here"]["Gaussian: 10 layers − 7"] == pytest.approx(-0.1)
    assert found["here"]["identity map − Gaussian, 10 layers"] == pytest.approx(0.15)
    assert found["as in the paper"].value_counts().to_dict() == {"not yet run": 6, "yes": 2}


def test_table7_has_train_and_test_alone(folders):
    record(folders, "table7/gaussian_5", 0.1, train=0.25)  # in the last epoch
    table = report.table(7)
    assert not {"robust", "paper certified", "FLOPs"} & {*table}
    first = table.iloc[0]
    assert (first["initialisation"], first["layers"]) == ("Gaussian", "5")
    assert (first["paper train"], first["train"]) == (
        pytest.approx(0.6301),
        0.25,
    )
    assert (first["paper test"], first["test"]) == (pytest.approx(0.5576), 0.9)
    text = report.text(7)
    assert "63.01" in text and "25.00" in text
    assert "ℓ∞-dist Net, initialisation Gaussian, layers 5, CIFAR-10: run on a test" in text
    assert "layers 6, CIFAR-10: not yet run: python -m linfdist run table7/gaussian_6" in text


@pytest.mark.parametrize("number", [3, 7, 9])
def test_tables_of_results_are_shown(number):
    text, html = report.text(number), report.show(number).to_html()
    assert text.startswith(f"Table {number}. ")
    for shown in (text, html):
        assert "nan" not in shown.lower() and "None" not in shown
    assert "source" not in text and "source" not in html  # nothing is quoted
    rows = len(report.table(number))
    assert text.count("not yet run: python -m linfdist run") == rows
    others = rows - len(experiments.TABLES[number].experiments)
    assert (html.count("font-weight: bold") > 0) is (others > 0)


def test_table3_says_which_switches_are_on():
    table = report.table(3)
    assert "FLOPs" not in table and "train" not in table
    columns = ["row", "smoothed gradient", "identity init", "weight decay"]
    assert table[columns].iloc[3].tolist() == ["D", "yes", "yes", "ℓ2"]


def test_table8_equals_the_papers():
    table = report.table(8)
    (heading,) = table.columns.get_level_values(0).unique()
    paper, here = table[heading, "paper"], table[heading, "this code"]
    assert paper.drop("FLOPs").tolist() == here.drop("FLOPs").tolist()
    assert len(table) == 8 + 1
    assert here["FLOPs"] == "566M = 565,842,944"
    assert report.text(8).startswith("Table 8.")
