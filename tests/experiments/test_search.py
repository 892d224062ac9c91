"""Settings are chosen without the test set, and what was tried is kept."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import made_records

from linfdist import data, experiments, records
from linfdist.cli import main
from linfdist.experiments import attack, recertify, runner
from linfdist.experiments.search import trial, trials
from linfdist.records import RecordError
from linfdist.records.files import read_sealed
from linfdist.robust.attacks.ensemble import AttackSetting

ROW = "table1/cifar10_net_mixture"
VALIDATION = f"validation/{ROW}"


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Records and work in a folder of the test; whoever reads a test set fails."""
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    load = data.load

    def training_images_alone(name, split, **given):
        assert split == "train", "the test set was read"
        return load(name, split, **given)

    monkeypatch.setattr(data, "load", training_images_alone)
    return tmp_path


@pytest.fixture
def setting():
    """A second of training."""
    smoke = experiments.get_setting(VALIDATION, "smoke")
    train = replace(smoke.train, epochs=(1, 1, 1), train_images=256)
    return replace(smoke, net=replace(smoke.net, hidden=(8,)), train=train)


def test_a_name_with_validation_is_the_row_without_the_test_set():
    row, ours = experiments.get(ROW), experiments.get(VALIDATION)
    assert ours.name == VALIDATION and ours.command("reduced").split()[4] == VALIDATION
    for scale, one in ours.scales.items():
        assert one.validation and replace(one, validation=False) == row.scales[scale]
    assert VALIDATION not in experiments.EXPERIMENTS
    for name in (f"validation/{VALIDATION}", "validation/table1/cifar10_nte"):
        with pytest.raises(experiments.UnknownName, match="Unknown experiment"):
            experiments.get(name)


def recertified(run):
    """What is certified to the last bit when a copy of the record, which lacks it, gets it."""
    copy = run.path.parents[4] / "old" / Path(*run.path.parts[-5:])
    shutil.copytree(run.path, copy)
    made_records.rewrite(copy, run.certificates.drop(columns=["sound_radius", "certified_sound"]))
    done = recertify.recertify(records.read_run(copy))
    return done.certificates["certified_sound"].tolist()


def test_a_row_is_run_recorded_attacked_and_recertified_without_the_test_set(
    folders, setting, monkeypatch
):
    monkeypatch.setattr(experiments, "get_setting", lambda name, scale: setting)
    run = runner.run(VALIDATION, scale="smoke", progress=False)
    assert run.path == folders / "runs" / VALIDATION / "smoke" / "seed0"
    assert run.config["setting"]["validation"] is True
    assert run.config["split"] == {"train": 1296, "validation": 144}
    assert {"validation_accuracy", "validation_certified"} < {*run.epochs}
    assert not {name for name in run.epochs if name.startswith("test")}
    _, validation = data.split_validation(data.load("digits", "train"))
    assert run.certificates["label"].tolist() == validation.labels.tolist()
    # No table counts it.
    assert records.find_runs() == [] == records.find_runs(ROW)
    assert [one.path for one in records.find_runs(VALIDATION)] == [run.path]
    net = runner.load_trained(run)
    with torch.no_grad():
        predicted = net(data.to_pixels(validation.images)).argmax(1)
    assert predicted.tolist() == run.certificates["predicted"].tolist()
    assert recertified(run) == run.certificates["certified_sound"].tolist()
    quick = {"pgd_2": AttackSetting("pgd", {"num_steps": 2})}
    found = attack.attack_run(run, attacks=quick, certified=2, progress=False)
    assert found.images == len(validation)


def test_a_run_on_all_images_says_nothing_of_a_split(setting, tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    whole = replace(setting, validation=False)
    monkeypatch.setattr(experiments, "get_setting", lambda name, scale: whole)
    run = runner.run(ROW, scale="smoke", progress=False)
    assert "split" not in run.config and "validation" not in run.config["setting"]
    assert {"test_accuracy", "test_certified"} < {*run.epochs}


def test_the_command_line_takes_the_name(folders, capsys):
    assert main(["list", VALIDATION, "--scale", "smoke"]) == 0
    assert f"not yet run  python -m linfdist run {VALIDATION}" in capsys.readouterr().out
    assert main(["run", VALIDATION, "--scale", "smoke", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["list", VALIDATION, ROW, "--scale", "smoke"]) == 0
    out = capsys.readouterr().out
    assert f"seeds 0      python -m linfdist run {VALIDATION} --scale smoke --seed 1" in out
    assert f"not yet run  python -m linfdist run {ROW} --scale smoke --seed 0" in out
    assert main(["recertify", VALIDATION, "--quiet"]) == 0


def test_a_trial_is_noted_and_made_once(folders, setting, monkeypatch):
    folder = folders / "search"
    found = trial("as it is", setting, folder=folder, progress=False)
    assert found == read_sealed(folder / "as it is-seed0.json")
    assert found["split"] == {"train": 1296, "validation": 144}
    assert 0 < found["certified"] <= found["clean"] <= 1 and found["cpu_seconds"] > 0
    assert found["last_epoch"]["validation_certified"] == pytest.approx(found["certified"])
    other = replace(setting, train=replace(setting.train, lr=1e-6))
    trial("no step", other, folder=folder, seed=1, progress=False)
    table = trials(folder)
    assert table["certified"].is_monotonic_decreasing
    assert {*zip(table["name"], table["seed"], strict=True)} == {("as it is", 0), ("no step", 1)}

    monkeypatch.setattr("linfdist.experiments.search.fit", None)  # nothing is trained again
    assert trial("as it is", setting, folder=folder, progress=False) == found
    with pytest.raises(RecordError, match="must belong to this setting; it belongs to another"):
        trial("as it is", other, folder=folder, progress=False)


def test_a_trial_does_not_read_the_test_set_nor_write_elsewhere(folders, setting):
    with pytest.raises(ValueError, match=r"setting.validation must be True.*got False"):
        trial("x", replace(setting, validation=False), folder=folders, progress=False)
    with pytest.raises(ValueError, match=r"name of a file, without folders; got '\.\./x'"):
        trial("../x", setting, folder=folders, progress=False)
    path = folders / "x-seed0.json"
    path.write_text("{}")
    with pytest.raises(RecordError, match="sha256"):
        trial("x", setting, folder=folders, progress=False)
    path.unlink()
    assert trials(folders).empty


def test_no_trial_ends_in_an_empty_table(tmp_path):
    assert trials(tmp_path).empty and "certified" in trials(tmp_path)


def test_the_trials_that_are_kept_left_the_test_set_alone():
    kept = sorted((Path(__file__).resolve().parents[2] / "runs" / "search").glob("*/*.json"))
    assert kept
    for path in kept:
        found = read_sealed(path)
        assert path.name == f"{found['name']}-seed{found['seed']}.json"
        assert found["setting"]["validation"] is True and found["environment"]["dirty"] is False
        assert found["split"]["validation"] == data.VALIDATION_IMAGES
