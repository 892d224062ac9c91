"""Recertifying records: what is added, what stays, what is refused, and crashes in between."""

import math
import os
import shutil

import pandas as pd
import pytest
from helpers import made_records

from linfdist import data, evaluation, records
from linfdist.cli import main
from linfdist.experiments import recertify
from linfdist.experiments.runner import run as train
from linfdist.records import RecordError, store

NAME, ADDED = "table1/mnist_net", ["sound_radius", "certified_sound"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A smoke run's folders, as they are now."""
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LINFDIST_RUNS", str(folder / "runs"))
        patch.setenv("LINFDIST_WORK", str(folder / "work"))
        train(NAME, scale="smoke", progress=False)
    return folder


@pytest.fixture
def old(recorded, tmp_path, monkeypatch):
    """The same run as code of before sound certificates recorded it; its files of today."""
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    (run,) = records.find_runs()
    today = files(run.path)
    table = pd.read_csv(run.path / "certificates.csv", dtype=str, keep_default_na=False)
    table.drop(columns=ADDED).to_csv(run.path / "certificates.csv", index=False)
    made_records.seal(run.path)
    return records.read_run(run.path), today


def files(folder):
    return {name: (folder / name).read_text() for name in records.FILES}


def test_an_old_run_gets_what_a_run_of_today_has(old):
    run, today = old
    before, seen = files(run.path), []
    done = recertify.recertify(run, advance=seen.append)
    after = files(run.path)
    assert sum(seen) == len(done.certificates) and list(done.certificates)[-2:] == ADDED
    # The radii start from stored ones, rounded down: a millionth or so below those of today.
    stored = pd.read_csv(run.path / "certificates.csv")
    assert stored["certified_sound"].tolist() == evaluated(today)["certified_sound"].tolist()
    assert ((evaluated(today)["sound_radius"] - stored["sound_radius"]).abs() < 5e-6).all()
    assert [line.rsplit(",", 2)[0] for line in after["certificates.csv"].splitlines()] == (
        before["certificates.csv"].splitlines()
    )
    for name in ("config.json", "epochs.csv", "metrics.json"):
        assert after[name] == before[name] == today[name]
    noted = done.environment.pop("recertified")
    assert done.environment == run.environment
    assert {"commit", "dirty", "versions", "device", "backend", "seconds"} <= set(noted)
    assert os.listdir(run.path.parent) == ["seed0"]
    assert records.accuracies(stored) == done.metrics


def evaluated(today) -> pd.DataFrame:
    import io

    return pd.read_csv(io.StringIO(today["certificates.csv"]))


def test_metrics_count_the_sound_verdicts(old, monkeypatch):
    run, _ = old

    def one_fewer(net, images, labels, eps, radii, certified):
        sound = certified.clone()
        sound[certified.nonzero()[0]] = False
        return {"sound_radius": radii, "certified_sound": sound}

    monkeypatch.setattr(recertify, "sound_columns", one_fewer)
    done = recertify.recertify(run, batch_size=10**6)
    lost = run.metrics["certified_accuracy"] - done.metrics["certified_accuracy"]
    assert lost == pytest.approx(1 / len(run.certificates))
    assert {**done.metrics, "certified_accuracy": 0} == {**run.metrics, "certified_accuracy": 0}


def test_a_run_of_today_is_left_alone(old):
    run, _ = old
    done = recertify.recertify(run)
    before = files(run.path)
    assert recertify.recertify(done) is None
    assert files(run.path) == before


@pytest.mark.parametrize("stage", ["write_files", "swap_folders", "rmtree"])
def test_a_crash_leaves_the_old_record_or_the_new_one(old, stage, monkeypatch):
    run, _ = old
    before = files(run.path)

    class Crash(BaseException):
        """The process ends here."""

    def crash(*args, **kwargs):
        raise Crash

    monkeypatch.setattr(shutil, "rmtree", crash)  # nobody cleans up
    if stage != "rmtree":
        monkeypatch.setattr(store, stage, crash)
    with pytest.raises(Crash):
        recertify.recertify(run)
    monkeypatch.undo()
    found = records.read_run(run.path)
    assert ("certified_sound" in found.certificates) == (stage == "rmtree")
    assert records.accuracies(found.certificates) == found.metrics
    if stage != "rmtree":
        assert files(run.path) == before


def test_a_file_system_that_cannot_exchange_is_named(old, monkeypatch):
    run, _ = old
    before = files(run.path)

    def cannot(one, other):
        raise OSError(22, "Invalid argument", str(one), None, str(other))

    monkeypatch.setattr(store, "swap_folders", cannot)
    with pytest.raises(RecordError, match=r"seed0 cannot be swapped with another folder: .*copy"):
        recertify.recertify(run)
    assert files(run.path) == before and os.listdir(run.path.parent) == ["seed0"]


def test_columns_are_added_once_and_to_every_image(old):
    run, _ = old
    with pytest.raises(RecordError, match=r"new columns must have new names .* got 3 values"):
        records.amend_run(run, pd.DataFrame({"certified_sound": [True] * 3}))
    again = run.certificates[["label"]]
    with pytest.raises(RecordError, match=r"new columns must have new names .* got label"):
        records.amend_run(run, again)


def test_a_contradiction_is_a_bug(old):
    run, _ = old
    table = pd.read_csv(run.path / "certificates.csv", dtype=str, keep_default_na=False)
    first = table.index[table["certified_interval"] == "1"][0]
    table.loc[first, "certified_interval"] = "0"
    made_records.rewrite(run.path, table)
    with pytest.raises(
        evaluation.ContradictionError, match="certified_sound must imply certified_in"
    ):
        recertify.recertify(records.read_run(run.path))


def test_other_data_is_named(old, monkeypatch):
    run, _ = old
    load = data.load

    def shifted(name, split):
        images = load(name, split)
        images.labels.add_(1).remainder_(10)
        return images

    monkeypatch.setattr(data, "load", shifted)
    with pytest.raises(RecordError, match="the labels must be those of the test set of digits"):
        recertify.recertify(run)


def test_a_network_without_such_certificates_is_left_alone(old, monkeypatch, capsys):
    run, _ = old
    monkeypatch.setattr(recertify, "SOUND", ())
    (records.work_dir(NAME, "smoke", 0) / "weights.pt").unlink()  # it needs none
    assert recertify.recertify(run) is None
    assert recertify.recertify_all([run], progress=False) == []
    run.certificates["certified_sound"] = math.nan  # as runs of today have it
    assert recertify.recertify_all([run], progress=False) == []
    assert capsys.readouterr().out.count("its network has no sound certificate") == 2


def test_the_command_goes_on_after_missing_weights(old, capsys):
    run, _ = old
    lost = run.path.with_name("seed1")
    shutil.copytree(run.path, lost)
    metrics = (lost / "metrics.json").read_text().replace('"seed": 0', '"seed": 1')
    (lost / "metrics.json").write_text(metrics)
    made_records.seal(lost)
    before = files(lost)
    assert main(["recertify", "table1", "--scale", "smoke", "--device", "cpu", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert f"{NAME}, smoke, seed 0: " in out and "certified, 0 fewer" in out
    assert f"{NAME}, smoke, seed 1: " in err and "must hold the weights of" in err
    assert err.endswith(f"Failed: {NAME}, smoke, seed 1.\n")
    assert files(lost) == before
    again = ["recertify", NAME, "--seed", "0", "--device", "cpu", "--quiet"]
    assert main(again) == 0
    assert "has sound certificates" in capsys.readouterr().out
    weights = records.work_dir(NAME, "smoke", 1) / "weights.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"others")
    assert main([*again[:3], "1", *again[4:]]) == 1
    assert "these are not the weights of" in capsys.readouterr().err
    assert main(["recertify", "table3", "--quiet"]) == 1
    assert "No run of these is recorded" in capsys.readouterr().err
