"""What is recorded in the repository: of Table 1 every row, better than a floor; and studies."""

from pathlib import Path

import pandas as pd
import pytest

from linfdist import data, experiments, records
from linfdist.experiments import differences, smoothing_study, table2, table3, table7, table9
from linfdist.system.serialise import to_dict

RECORDED = Path(__file__).resolve().parents[2] / "runs"
FLOORS = {"mnist": 0.70, "fashion_mnist": 0.60, "cifar10": 0.20}  # certified, reduced scale
OWN_FLOORS = {
    "table1/mnist_group_sort": 0.0,  # 2 % in the paper
    "table1/mnist_colt": 0.25,  # a thirtieth of its epochs
    "table1/fashion_mnist_cap": 0.55,  # a quarter as wide, on a twelfth of the images
}


def images_of(experiment, run):
    """How many test images a run must have: all, of the classes that are there, or as it says."""
    whole = 2_000 if run.config["num_classes"] == 40 else 10_000
    return experiment.scales["reduced"].test_images or whole


@pytest.mark.parametrize("name", experiments.parse_rows("all"))
def test_a_reduced_run_on_the_whole_test_set_certifies_more_than_its_floor(name, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(RECORDED))
    runs = records.find_runs(name, "reduced")
    assert runs, f"{name} has no recorded run: {experiments.get(name).command('reduced')}"
    dataset = experiments.get(name).dataset
    for run in runs:
        assert len(run.certificates) == images_of(experiments.get(name), run)
        assert run.metrics["certified_accuracy"] > OWN_FLOORS.get(name, FLOORS[dataset])
        assert run.environment["dirty"] is False
        assert run.config["setting"]["dataset"] == dataset
        assert run.config["num_classes"] == data.DATASETS[dataset].num_classes


TABLES = (table2.TABLE, table3.TABLE, table7.TABLE, table9.TABLE)
ROWS = [row for table in TABLES for row in table.rows]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.number}")
def test_every_row_of_a_table_is_recorded(table, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(RECORDED))
    rows = {experiment.name for experiment in table.experiments}
    assert rows <= {run.experiment for run in records.find_runs(scale="reduced")}


@pytest.mark.parametrize(
    "experiment",
    [*ROWS, *smoothing_study.EXPERIMENTS, *differences.EXPERIMENTS],
    ids=lambda one: one.name,
)
def test_a_study_is_of_its_experiments(experiment, monkeypatch):
    """What is recorded was trained as the code now says, and tested on all images."""
    monkeypatch.setenv("LINFDIST_RUNS", str(RECORDED))
    for run in records.find_runs(experiment.name, "reduced"):
        assert run.config["setting"] == to_dict(experiment.scales["reduced"])
        assert len(run.certificates) == images_of(experiment, run)
        assert run.environment["dirty"] is False


def test_log_sum_exp_does_not_lose_to_the_powers_it_replaces(monkeypatch):
    """On MNIST over three seeds, in half the time: what the chapter recommends it for."""
    monkeypatch.setenv("LINFDIST_RUNS", str(RECORDED))
    means = {}
    for name in ("lp", "then"):
        runs = records.find_runs(f"smoothing/mnist_net_{name}", "reduced")
        assert [run.seed for run in runs] == [0, 1, 2]
        means[name] = pd.DataFrame([run.metrics for run in runs]).mean()
    for metric in ("clean_accuracy", "certified_accuracy"):
        assert means["then"][metric] >= means["lp"][metric] - 0.005
