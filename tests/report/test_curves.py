"""Certified accuracy against radius, margins and fates, from records."""

import json
import math
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import made_records

from linfdist import experiments, records, report
from linfdist.records import certified_radii, eps_of
from linfdist.records.attacks import find_attacks
from linfdist.report.curves import certified_at, recorded_by_row

RUNS = records.find_runs(scale="reduced")


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.experiment}-{run.seed}")
def test_a_curve_passes_through_the_recorded_accuracies(run):
    eps = float(eps_of(run))
    shares = certified_at([run], [0.0, eps / 2, eps, 2 * eps])
    assert math.isclose(shares[0.0], run.metrics["clean_accuracy"], abs_tol=1e-12)
    assert math.isclose(shares[eps], run.metrics["certified_accuracy"], abs_tol=1e-12)
    assert shares.is_monotonic_decreasing


def test_the_sound_radius_comes_first():
    with_it = [run for run in RUNS if "sound_radius" in run.certificates]
    some = next(run for run in with_it if run.certificates["sound_radius"].notna().all())
    radii, images = certified_radii(some), some.certificates
    away = (images["sound_radius"] - float(eps_of(some))).abs() > 1e-5
    assert np.array_equal(radii[away], images["sound_radius"][away])
    without = next(run for run in RUNS if "sound_radius" not in run.certificates)
    radii, images = certified_radii(without), without.certificates
    away = (images["interval_radius"] - float(eps_of(without))).abs() > 1e-5
    assert np.array_equal(radii[away], images["interval_radius"][away])


def test_shares_of_several_seeds_are_their_mean():
    runs = recorded_by_row("table1")["table1/mnist_net"]
    assert len(runs) > 1
    table = report.certified_shares("table1").set_index("row")
    row = table.loc["table1/mnist_net"]
    assert row["seeds"] == len(runs)
    mean = np.mean([run.metrics["certified_accuracy"] for run in runs])
    assert row["at eps"] == pytest.approx(mean)
    assert row["paper at eps"] == 0.9264


def test_a_panel_a_data_set_and_a_line_a_row():
    figure = report.plot_curves("table1")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "MNIST" and len(set(titles)) == len(titles)
    found = recorded_by_row("table1")
    lines = [line for ax in figure.axes for line in ax.lines if len(line.get_xdata()) > 2]
    assert len(lines) == len(found)
    papers = [line for ax in figure.axes for line in ax.lines if line.get_marker() == "o"]
    # All have the paper's data set at the reduced scale; its number of PVT is at another radius.
    assert len(papers) == len({*found} - {"table1/cifar10_pvt"})
    shares = report.certified_shares("table1").set_index("row")["paper at eps"]
    assert shares.index[shares.isna()].tolist() == ["table1/cifar10_pvt"]
    assert any(p.get_xdata()[0] == 0.3 and p.get_ydata()[0] == pytest.approx(92.64) for p in papers)
    assert report.plot_margins("table1").axes
    (ax,) = report.plot_curves("table3").axes
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(set(shown)) == len(shown) == len(recorded_by_row("table3"))


@pytest.mark.parametrize("scale", ["smoke", "paper"])
def test_without_records_it_says_so(scale, tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path))
    for plot in (report.plot_curves, report.plot_margins):
        (ax,) = plot("table1", scale).axes
        assert ax.texts[0].get_text() == f"table1: no run recorded at scale {scale}"
    assert report.certified_shares("table1", scale).empty
    with pytest.raises(experiments.UnknownName, match="scale"):
        report.plot_curves("table1", "huge")


def test_another_data_set_has_no_number_of_the_paper(tmp_path, monkeypatch):
    run = next(run for run in RUNS if run.experiment == "table1/mnist_net")
    copy = tmp_path / "table1" / "mnist_net" / "reduced" / "seed0"
    shutil.copytree(run.path, copy)
    for name, change in {
        "config.json": lambda config: config["setting"].update(dataset="digits", test_images=10000),
        "metrics.json": lambda metrics: metrics.update(seed=0),
    }.items():
        content = json.loads((copy / name).read_text())
        change(content)
        (copy / name).write_text(json.dumps(content))
    made_records.seal(copy)
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path))
    (row,) = report.certified_shares("table1").to_dict("records")
    assert row["data set"] == "digits" and row["paper at eps"] is None


def test_every_image_that_is_right_has_one_fate():
    for found in find_attacks(scale="reduced"):
        table, eps = report.fates(found), float(found.eps)
        counts = table["fate"].value_counts()
        shown = found.accuracies()
        assert counts.sum() == round(shown["clean"] * found.images)
        assert counts["certified"] == round(shown["certified"] * found.images)
        survived = counts["certified"] + counts.get("not beaten", 0)
        assert survived == round(shown["strongest"] * found.images)
        beaten = table[table["fate"].str.startswith("beaten")]
        assert (beaten["gap"] == eps - beaten["radius"]).all() and (beaten["gap"] > 0).all()
        assert table.loc[~table.index.isin(beaten.index), "gap"].isna().all()
    _, ax = plt.subplots()
    report.plot_fates(found, ax)
    assert f"{counts['certified']} more are certified" in ax.get_title()
