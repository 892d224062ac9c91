"""What is recorded in the repository: every own row of Table 1, better than a floor."""

from pathlib import Path

import pytest

from linfdist import data, experiments, records

RECORDED = Path(__file__).resolve().parents[1] / "runs"
FLOORS = {"mnist": 0.70, "fashion_mnist": 0.60, "cifar10": 0.20}  # certified, reduced scale


@pytest.mark.parametrize("name", experiments.parse_rows("all"))
def test_a_reduced_run_on_the_whole_test_set_certifies_more_than_its_floor(name, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(RECORDED))
    runs = records.find_runs(name, "reduced")
    assert runs, f"{name} has no recorded run: {experiments.get(name).command('reduced')}"
    dataset = experiments.get(name).dataset
    for run in runs:
        assert len(run.certificates) == 10_000
        assert run.metrics["certified_accuracy"] > FLOORS[dataset]
        assert run.environment["dirty"] is False
        assert run.config["setting"]["dataset"] == dataset
        assert run.config["num_classes"] == data.DATASETS[dataset].num_classes
