"""Records: written once and whole, read back, and equal to what their certificates say."""

import csv
import hashlib
import json
import os
import platform
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import made_records

from linfdist import experiments, records
from linfdist.experiments import Setting
from linfdist.records import RecordError, RunExists, RunInProgress, environment, files, paths
from linfdist.system import devices
from linfdist.system.serialise import from_dict

pytestmark = pytest.mark.quick

NAME, SCALE = "table1/mnist_net", "smoke"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    return tmp_path


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"weights")
    return path


def certificates(margin: bool = True) -> pd.DataFrame:
    nothing = np.full(4, np.nan)
    return pd.DataFrame(
        {
            "index": range(4),
            "label": [0, 1, 2, 3],
            "predicted": [0, 1, 2, 0],
            "margin_radius": [0.123456789, 1 / 3, 0.01, 0.0] if margin else nothing,
            "interval_radius": [0.2, 0.5, 0.02, 0.0],
            "certified_margin": [True, True, False, False] if margin else nothing,
            "certified_interval": [True, True, False, False],
            "survived_pgd": [True, True, True, False],
        }
    )


def write(weights, seed=0, margin=True, **changes):
    table = certificates(margin)
    arguments = {
        "metrics": records.accuracies(changes.get("certificates", table)),
        "environment": made_records.ENVIRONMENT,
        "epochs": [{"epoch": 1, "p": 8.0, "train_accuracy": 1 / 3, "seconds": 0.25}],
        "certificates": table,
        "seconds": 12.345,
        "weights": weights,
    } | changes
    images = len(arguments["certificates"])
    arguments.setdefault("config", made_records.config(epochs=1, test_images=images))
    return records.write_run(NAME, SCALE, seed, **arguments)


def with_radii(name, radii) -> pd.DataFrame:
    """A whole table whose column has these radii."""
    table = made_records.certificates(len(radii), 1, 1, 1)
    if name == "sound_radius":
        table["certified_sound"] = True
    return table.assign(**{name: radii, **({"certified_margin": True} if "margin" in name else {})})


def test_a_run_is_read_back(weights, folders):
    run = write(weights)
    assert run.path == folders / "runs" / "table1" / "mnist_net" / "smoke" / "seed0"
    assert (run.experiment, run.scale, run.seed, run.seconds) == (NAME, SCALE, 0, 12.3)
    assert run.config == made_records.config(epochs=1, test_images=4)
    assert run.environment == made_records.ENVIRONMENT
    assert run.epochs.to_dict("list") == {
        "epoch": [1],
        "p": [8],
        "train_accuracy": [0.333333],
        "seconds": [0.25],
    }
    assert run.certificates["margin_radius"].tolist() == [0.123456, 0.333333, 0.01, 0.0]
    assert run.certificates["survived_pgd"].tolist() == [1, 1, 1, 0]
    assert records.accuracies(run.certificates) == run.metrics
    assert sorted(path.name for path in run.path.iterdir()) == sorted(
        [*records.FILES, "SHA256SUMS"]
    )
    assert os.listdir(run.path.parent) == ["seed0"]


def test_metrics_json_has_the_format_that_the_readme_gives(weights):
    run = write(weights)
    assert json.loads((run.path / "metrics.json").read_text()) == {
        "experiment": NAME,
        "scale": SCALE,
        "seed": 0,
        "seconds": 12.3,
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "metrics": {
            "clean_accuracy": 0.75,
            "pgd_accuracy": 0.75,
            "certified_accuracy": 0.5,
            "certified_accuracy_margin": 0.5,
        },
    }


def test_radii_are_rounded_down(weights):
    drawn = np.random.default_rng(0).uniform(0, 2, 1000)
    radii = np.concatenate([drawn, [0.0, 0.3, 0.29, 1.2345678, 9.9e-7, np.nextafter(0.3, 0)]])
    table = with_radii("margin_radius", radii).assign(interval_radius=radii[::-1])
    stored = write(weights, certificates=table).certificates
    for name in ("margin_radius", "interval_radius"):
        below = table[name] - stored[name]
        assert (below >= 0).all() and (below < 1.000001e-6).all()
    assert stored["margin_radius"].tolist()[-6:] == [0, 0.3, 0.29, 1.234567, 0, 0.299999]


def test_the_decimals_of_a_sound_radius_are_certified(weights):
    drawn = np.random.default_rng(0).uniform(0, 1, 1000)
    radii = np.concatenate([drawn, [0.0, 0.3, np.nextafter(0.3, 1), 0.1, 1.0]])
    path = write(weights, certificates=with_radii("sound_radius", radii)).path / "certificates.csv"
    stored = [line.split(",")[-1] for line in path.read_text().split("\n")[1:-1]]
    assert stored[-5:] == ["0", "0.299999", "0.3", "0.1", "1"]
    missing = files.csv_text(pd.DataFrame({"sound_radius": [np.nan]}))
    assert missing.split("\n")[1] == '""'
    for text, radius in zip(stored, radii.tolist(), strict=True):
        assert 0 <= Fraction(radius) - Fraction(text) < Fraction(1, 10**6)


def test_certified_are_the_sound_verdicts_where_there_are_any(weights):
    table = certificates()
    table["certified_sound"] = [True, False, False, False]
    assert records.accuracies(table)["certified_accuracy"] == 0.25
    table["certified_sound"] = np.nan
    assert records.accuracies(table)["certified_accuracy"] == 0.5


def test_a_net_without_margins_has_no_margin_accuracy(weights):
    run = write(weights, margin=False)
    assert "certified_accuracy_margin" not in run.metrics
    assert records.accuracies(run.certificates) == run.metrics


def test_a_run_is_never_overwritten(weights):
    first = write(weights)
    before = (first.path / "metrics.json").read_bytes()
    with pytest.raises(
        RunExists, match=r"seed0 already exists: a run is recorded only once\. Choose another"
    ):
        write(weights, seconds=1.0)
    assert (first.path / "metrics.json").read_bytes() == before
    assert write(weights, seed=1).seed == 1


def test_a_write_that_fails_leaves_nothing(weights, folders):
    with pytest.raises(ValueError, match="Out of range float values"):
        write(weights, metrics={"clean_accuracy": float("nan")})
    assert list((folders / "runs").rglob("seed*")) == [] == records.find_runs()


def test_an_unfinished_folder_is_not_a_run(weights, folders):
    run = write(weights)
    run.path.rename(run.path.with_name(".seed0-abc"))
    assert records.find_runs() == []
    assert write(weights).seed == 0


def test_find_runs(weights, folders):
    assert records.find_runs() == []
    for seed in (10, 2):
        write(weights, seed=seed)
    assert [run.seed for run in records.find_runs()] == [2, 10]
    assert [run.seed for run in records.find_runs(NAME, SCALE, 2)] == [2]
    assert records.find_runs(NAME, "paper") == []
    assert records.find_runs("table1/cifar10_net") == []


def test_a_damaged_run_is_named(weights):
    run = write(weights)
    (run.path / "epochs.csv").unlink()
    with pytest.raises(RecordError, match=r"seed0 is not a whole run: it lacks epochs\.csv"):
        records.find_runs()
    (run.path / "epochs.csv").touch()
    (run.path / "metrics.json").write_text("{")
    made_records.seal(run.path)
    with pytest.raises(RecordError, match=r"metrics\.json is not JSON"):
        records.read_run(run.path)
    (run.path / "metrics.json").write_text('{"experiment": "a/b"}')
    made_records.seal(run.path)
    with pytest.raises(RecordError, match=r"metrics\.json must have the keys of a run; it has"):
        records.read_run(run.path)


def test_a_moved_run_is_named(weights):
    run = write(weights)
    moved = run.path.rename(run.path.with_name("seed7"))
    with pytest.raises(
        RecordError, match=r"says that the run belongs at table1/mnist_net/smoke/seed0"
    ):
        records.read_run(moved)


def test_weights_are_checked(weights):
    run = write(weights)
    records.check_weights(run, weights)
    weights.write_bytes(b"others")
    with pytest.raises(RecordError, match="these are not the weights of table1/mnist_net at scale"):
        records.check_weights(run, weights)
    weights.unlink()
    with pytest.raises(RecordError, match="must hold the weights of table1/mnist_net at") as caught:
        records.check_weights(run, weights)
    assert f"python -m linfdist run {NAME} --scale {SCALE} --seed 0" in str(caught.value)


def test_folders_follow_the_environment(monkeypatch, folders):
    assert records.work_dir(NAME, SCALE, 3) == folders / "work" / NAME / SCALE / "seed3"
    monkeypatch.delenv("LINFDIST_RUNS")
    monkeypatch.delenv("LINFDIST_WORK")
    assert records.runs_dir() == records.repository() / "runs"
    assert records.work_dir(NAME, SCALE, 3).is_relative_to(records.repository() / "work")


def test_records_and_work_are_kept_apart(monkeypatch, folders):
    monkeypatch.setenv("LINFDIST_WORK", str(folders / "runs"))
    with pytest.raises(RecordError, match="LINFDIST_WORK and LINFDIST_RUNS must be two folders"):
        records.work_dir(NAME, SCALE, 0)


def test_devices_are_tried_before_they_are_used():
    assert devices.usable_device("cpu") == torch.device("cpu")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    assert devices.usable_device().type == default
    for name in ("gpu", "cuda:99"):
        with pytest.raises(devices.DeviceError, match=f"device '{name}' cannot be used"):
            devices.usable_device(name)


def test_environment_is_ready_for_json():
    described = environment.describe("cpu")
    assert set(described) == {
        "commit",
        "dirty",
        "versions",
        "platform",
        "device",
        "threads",
        "backend",
    }
    assert json.loads(json.dumps(described)) == described
    assert described["platform"] == f"{platform.system()} {platform.machine()}"
    assert "cores" in described["device"]
    assert devices.peak_memory_mb("cpu") > 10


def test_environment_without_git(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    described = environment.describe("cpu")
    assert described["commit"] is None
    assert described["dirty"] is None


@pytest.mark.parametrize("project", [None, '[project]\nname = "another"\n', ""])
def test_the_commit_of_another_project_is_not_recorded(project, monkeypatch, tmp_path):
    """The package is a copy in site-packages, and one works in a repository of one's own."""
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "linfdist" / "records" / "paths.py"))
    monkeypatch.chdir(Path(environment.__file__).parents[2])
    if project is not None:
        (tmp_path / "pyproject.toml").write_text(project)
    assert records.checkout() is None
    assert records.repository() == Path.cwd()
    described = environment.describe("cpu")
    assert described["commit"] is None
    assert described["dirty"] is None


def test_the_checkout_is_known_by_its_project(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "linfdist" / "records" / "paths.py"))
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "linfdist"\n')
    assert records.checkout() == records.repository() == tmp_path


def test_one_process_at_a_time_has_the_work_folder(folders):
    work = folders / "work" / "x"
    with records.lock(work):
        with pytest.raises(RunInProgress, match="already in progress in another process"):
            with records.lock(work):
                pytest.fail("two have it")
        with records.lock(folders / "work" / "y"):
            pass
    with records.lock(work):
        pass


def counted(path):
    """The metrics once more, by counting the lines of the file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    hits = {
        "clean_accuracy": [row["label"] == row["predicted"] for row in rows],
        "pgd_accuracy": [row["survived_pgd"] == "1" for row in rows],
        "certified_accuracy": [row["certified_interval"] == "1" for row in rows],
    }
    if rows[0].get("certified_sound"):
        hits["certified_accuracy"] = [row["certified_sound"] == "1" for row in rows]
    if rows[0]["certified_margin"]:
        hits["certified_accuracy_margin"] = [row["certified_margin"] == "1" for row in rows]
    return {name: sum(flags) / len(rows) for name, flags in hits.items()}


@pytest.mark.parametrize("margin", [True, False])
def test_metrics_are_what_counting_gives(weights, margin):
    run = write(weights, margin=margin)
    assert counted(run.path / "certificates.csv") == run.metrics


# The folders fixture hides the repository's own records from the tests above, not from these.
RECORDED = sorted((records.repository() / "runs").glob("*/*/*/seed*"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: "/".join(path.parts[-4:]))
def test_recorded_accuracies_follow_from_the_certificates(path):
    run = records.read_run(path)
    table = run.certificates
    assert counted(path / "certificates.csv") == pytest.approx(run.metrics, abs=1e-12)
    assert records.accuracies(table) == pytest.approx(run.metrics, abs=1e-12)
    assert table["index"].tolist() == list(range(len(table)))
    certified = table["certified_interval"].astype(bool)
    survived = table["survived_pgd"].astype(bool)
    correct = table["label"] == table["predicted"]
    assert not (certified & ~survived).any()
    assert not (survived & ~correct).any()
    if "certified_accuracy_margin" in run.metrics:
        assert not (table["certified_margin"].astype(bool) & ~certified).any()
    if "certified_sound" in table:
        sound = table["certified_sound"]
        assert sound.isna().all() or (sound.astype(bool) <= certified).all()
        assert not (table["sound_radius"] > table["interval_radius"]).any()
    setting = from_dict(Setting, run.config["setting"])
    assert len(run.epochs) == sum(setting.train.epochs)
    assert len(table) == setting.test_images or setting.test_images is None


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: "/".join(path.parts[-4:]))
def test_recorded_runs_have_the_setting_that_their_experiment_has_now(path):
    run = records.read_run(path)
    recorded = from_dict(Setting, run.config["setting"])
    assert recorded == experiments.get_setting(run.experiment, run.scale), "run it again"
