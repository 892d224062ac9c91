"""The ledger: a row for every claim, and verdicts that follow from records by the stated rule."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from helpers import made_records

from linfdist import experiments, report
from linfdist.bench import epochs_file
from linfdist.experiments import comparisons, runner, table1, table3, table4, table7
from linfdist.report import formats

BOOK = Path(__file__).resolve().parents[2] / "book"
NET = "table1/mnist_net"  # 92.64 % certified in the paper, tolerance 0.18
CERTIFIED = "MNIST, ℓ∞-dist Net: certified"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    (tmp_path / "weights.pt").write_bytes(b"weights")
    return tmp_path


def record(folder, name, certified, *, scale="paper", seed=0, clean=0.9, train=0.5, classes=10):
    made_records.record(
        folder,
        name,
        scale,
        seed,
        clean=clean,
        certified=certified,
        num_classes=classes,
        epochs=[{"epoch": 1, "train_accuracy": train}],
        seconds=60.0 + 60 * seed,
        device=f"machine {seed}",
    )


def row(claim):
    found = report.ledger()
    (index,) = found.index[found["claim"] == claim]
    return found.loc[index]


def difference(comparison):
    own = () if comparison in comparisons.COMPARISONS else ("CIFAR-10", comparison.after.title)
    return row(f"{', '.join([*own, comparison.title])}: {comparison.accuracy}")


def test_every_number_of_every_row_of_the_paper_is_a_claim():
    found = report.ledger()
    assert found["claim"].is_unique
    assert set(found["verdict"]) <= set(report.Verdict)
    printed = [
        getattr(row.paper, key)
        for table in experiments.tables_of(experiments.Table)
        for row in (*table.rows, *table.quoted)
        for key in formats.PRINTED.values()
    ]
    wanted = sorted(number for number in printed if number is not None)
    assert sorted(found.loc[found["kind"] == "accuracy", "paper"]) == wanted
    stated = (*comparisons.COMPARISONS, *table3.TABLE.comparisons, *table7.TABLE.comparisons)
    assert (found["kind"] == "difference").sum() == len(stated)
    assert set(report.headlines()) <= set(found["claim"])
    abstract = [0.9309, 0.7923, 0.3542, 0.1631]
    printed = found.set_index("claim").loc[report.headlines(), "paper"]
    assert printed.tolist() == pytest.approx(abstract)


def test_a_verdict_is_shown_in_words():
    claims = report.ledger()
    counts = report.verdicts(claims)
    html = report.show_ledger(claims).to_html()
    for shown in (claims.to_csv(), claims.to_string(), html, counts.to_csv(), counts.to_html()):
        assert "not yet run" in shown and "Verdict" not in shown and "NOT_YET" not in shown


def test_what_the_text_says_of_the_tables():
    points = {one.title: 100 * _printed(one) for one in comparisons.COMPARISONS}
    assert points["CIFAR-10, ℓ∞-dist Net+MLP − IBP"] == pytest.approx(6.23)  # Sec. 7.2
    assert sum(round(value, 2) == 2.04 for value in points.values()) == 1
    assert min(points.values()) > 0


def _printed(comparison):
    key = formats.PRINTED[comparison.accuracy]
    return getattr(comparison.after.paper, key) - getattr(comparison.before.paper, key)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("certified", "verdict"),
    [
        (0.9260, "reproduced"),
        (0.9246, "reproduced"),
        (0.9282, "reproduced"),
        (0.9244, "not reproduced"),
        (0.9284, "exceeded"),
    ],
)
def test_an_accuracy_is_judged_at_the_papers_scale(folder, certified, verdict):
    record(folder, NET, certified, scale="reduced")
    before = row(CERTIFIED)
    assert (before["scale"], before["verdict"]) == ("reduced", "not yet run")
    assert before["here"] == certified
    record(folder, NET, certified)
    after = row(CERTIFIED)
    assert (after["scale"], after["verdict"]) == ("paper", verdict)


@pytest.mark.quick
def test_a_row_says_what_it_came_from(folder):
    record(folder, NET, 0.9260)
    record(folder, NET, 0.9270, seed=1)
    found = row(CERTIFIED)
    assert found["n"] == 2 and found["here"] == pytest.approx(0.9265)
    assert found["sd"] == pytest.approx(0.0005 * 2**0.5)
    assert found["minutes"] == pytest.approx(1.5)
    assert (found["device"], found["commit"]) == ("machine 0, machine 1", "0123456")
    assert found["runs"] == (f"{NET}/paper/seed0", f"{NET}/paper/seed1")
    html = report.show_ledger(report.ledger()).to_html()
    assert f'<a href="runs/{NET}/paper/seed1/metrics.json" title="{NET}/paper/seed1">1</a>' in html
    assert "92.65 ± 0.07" in html and "82.7M" in html and "nan" not in html


def test_a_row_without_a_commit_is_in_the_ledger(folder, monkeypatch):
    """Of code that ran as a copy, outside a checkout."""
    monkeypatch.setitem(made_records.ENVIRONMENT, "commit", None)
    record(folder, NET, 0.9260)
    assert row(CERTIFIED)["commit"] == "unknown"


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        (0.30, "reproduced at reduced scale"),
        (0.105, "within noise"),
        (0.095, "within noise"),
        (0.05, "not reproduced"),
    ],
)
def test_a_difference_within_a_method_is_judged_at_the_reduced_scale_too(folder, after, verdict):
    comparison = table3.TABLE.comparisons[0]
    assert difference(comparison)["verdict"] == "not yet run"
    record(folder, comparison.before.name, 0.10, scale="reduced")
    record(folder, comparison.after.name, after, scale="reduced")
    found = difference(comparison)
    assert (found["verdict"], found["scale"], found["n"]) == (verdict, "reduced", 1)
    assert found["here"] == pytest.approx(after - 0.10) and found["minutes"] == pytest.approx(2)
    record(folder, comparison.before.name, 0.10)
    record(folder, comparison.after.name, 0.20)
    assert difference(comparison)["verdict"] == "reproduced"


def test_fewer_classes_are_named_and_not_judged(folder):
    net_mlp = "table2/tinyimagenet_net_mlp"
    record(folder, net_mlp, 0.25, classes=40)
    found = row(report.headlines()[-1])
    assert (found["scale"], found["verdict"]) == ("paper (40 of 200 classes)", "not yet run")
    (comparison,) = (one for one in comparisons.COMPARISONS if one.after.name == net_mlp)
    found = difference(comparison)
    assert (found["table"], found["verdict"]) == (2, "not yet run")
    assert found["scale"] == "paper (40 of 200 classes)"


def test_two_seeds_far_apart_are_noise(folder):
    comparison = table3.TABLE.comparisons[0]
    for seed, (before, after) in enumerate([(0.10, 0.12), (0.14, 0.20)]):
        record(folder, comparison.before.name, before, scale="reduced", seed=seed)
        record(folder, comparison.after.name, after, scale="reduced", seed=seed)
    found = difference(comparison)
    assert found["tolerance"] == pytest.approx(2 * (0.0008 + 0.0032) ** 0.5)
    assert found["here"] == pytest.approx(0.04) and found["verdict"] == "within noise"


def test_a_difference_of_methods_waits_for_the_papers_scale(folder):
    comparison = comparisons.COMPARISONS[0]
    for one in (comparison.before, comparison.after):
        record(folder, one.name, 0.3 if one is comparison.before else 0.4, scale="reduced")
    found = difference(comparison)
    assert (found["here"], found["verdict"]) == (pytest.approx(0.1), "not yet run")
    for one in (comparison.before, comparison.after):
        record(folder, one.name, 0.3 if one is comparison.before else 0.4)
    assert difference(comparison)["verdict"] == "reproduced"


def test_a_quoted_row_stands_with_its_printed_number(folder):
    (comparison,) = (one for one in comparisons.COMPARISONS if "WideResNet" in one.title)
    printed = comparison.before.paper.certified_accuracy
    record(folder, comparison.after.name, 0.3, scale="reduced", classes=200)
    assert difference(comparison)["verdict"] == "not yet run"
    record(folder, comparison.after.name, 0.3, classes=200)
    found = difference(comparison)
    assert (found["here"], found["verdict"]) == (pytest.approx(0.3 - printed), "reproduced")


@pytest.mark.parametrize(
    ("backend", "seconds", "verdict"),
    [
        ("native (avx512)", 19.7, "not yet run"),
        ("native (cuda)", 19.7, "reproduced"),
        ("native (cuda)", 24.5, "reproduced"),
        ("native (cuda)", 25.0, "not reproduced"),
        ("native (cuda)", 14.0, "not reproduced"),
    ],
)
def test_times_are_judged_on_a_gpu(backend, seconds, verdict, monkeypatch):
    claim = "CIFAR-10, ℓ∞-dist Net: epoch, of IBP's"
    empty = row(claim)
    assert empty["verdict"] == "not yet run" and pd.isna(empty["here"])
    timed = {one.experiment.name: one.paper_seconds or 1.0 for one in table4.TABLE.rows}
    timed["table1/cifar10_net"] = seconds
    times = SimpleNamespace(
        rounds=5,
        device="a device",
        environment={"backend": backend, "commit": "0123456789"},
        summary=lambda: pd.DataFrame({"ratio": pd.Series(timed) / 17.4}),
    )
    monkeypatch.setattr(epochs_file, "recorded_times", lambda scale: [times] * (scale == "paper"))
    found = row(claim)
    assert (found["verdict"], found["n"]) == (verdict, 5)
    assert found["paper"] == pytest.approx(19.7 / 17.4)
    assert found["here"] == pytest.approx(seconds / 17.4)
    assert "1.13×" in report.show_ledger(report.ledger()).to_html()


def test_flops_need_no_run(monkeypatch):
    flops = report.ledger().query("kind == 'FLOPs'").set_index("claim")
    net = flops.loc["MNIST, ℓ∞-dist Net: FLOPs"]
    assert (net["paper"], net["here"], net["verdict"]) == (82.7e6, 82_708_480, "reproduced")
    assert flops.loc["CIFAR-10, Convolutional ℓ∞-dist Net+MLP: FLOPs", "verdict"] == "reproduced"
    monkeypatch.setattr(runner, "counts", lambda net: {"flops": 82_760_000})
    assert row("MNIST, ℓ∞-dist Net: FLOPs")["verdict"] == "not reproduced"


def test_verdicts_are_counted_and_pages_exist(folder):
    record(folder, table1.PAPER_ROWS[0].name, 0.9264)
    found = report.ledger()
    counts = report.verdicts(found)
    assert counts.to_numpy().sum() == len(found)
    assert counts.loc[1, "reproduced"] == 1 + sum(
        found.query("kind == 'FLOPs' and table == 1")["verdict"] == "reproduced"
    )
    html = report.show_ledger(found).to_html()
    for number in found["table"].unique():
        assert f'<a href="tables/table{number}.html">{number}</a>' in html
        assert (BOOK / "tables" / f"table{number}.ipynb").is_file(), f"Table {number} has no page"
