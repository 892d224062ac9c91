"""Records that were edited and given new checksums: what they contradict is named at each read."""

import json
import shutil

import pandas as pd
import pytest
from helpers import made_records

from linfdist import data, records
from linfdist.bench import recorded as benches
from linfdist.cli import main
from linfdist.experiments import runner
from linfdist.records import RecordError
from linfdist.records.attacks import find_attacks, read_attack
from linfdist.records.checks import TEST_IMAGES
from linfdist.records.files import read_sealed, sealed_text

NET, RUNS = "table1/mnist_net", records.repository() / "runs"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A copy of a recorded run, with an attack, and alone."""
    copy = tmp_path / "runs" / NET / "reduced" / "seed0"
    shutil.copytree(RUNS / NET / "reduced" / "seed0", copy)
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    return records.read_run(copy)


def edit(run, name, change):
    """Change a file's content, its sums made again."""
    path = run.path / name
    if name.endswith(".json"):
        content = json.loads(path.read_text())
        content = change(content) or content
        path.write_text(json.dumps(content))
    else:
        change(pd.read_csv(path)).to_csv(path, index=False)
    made_records.seal(run.path)


def both(content, keys, value):
    *path, last = keys.split(".")
    for key in path:
        content = content[key]
    if value is None:
        del content[last]
    else:
        content[last] = value


JSON = {
    "metrics.json": {
        "metrics.certified_accuracy": [0.999, 1, None, "0.9", 10**400, True],
        "metrics.pgd_accuracy": [0.9],
        "metrics.other": [0.5],
        "metrics": [{}, [], None],
        "seconds": ["1", True, 10**400],
        "seed": [True, 0.0],
        "weights_sha256": [0],
    },
    "config.json": {
        "setting": [{}, None, [], "mnist"],
        "setting.eps": ["x", "1/0", "-1/10", 0.3, None],
        "setting.dataset": ["mnits", 3, None, "digits"],
        "setting.test_images": [5000, 0, -1, "all", True],
        "setting.train": [{}, None, {"epochs": 3}, {"epochs": ["a"]}],
        "setting.train.epochs": [[8, 8, 5], [8], None],
        "setting.net": [None, "net"],
        "num_classes": ["ten", 0, -1, None, 5, True],
        "parameters": ["x", None],
        "flops": [1.5, None, "1"],
    },
    "environment.json": {
        "device": [None, 3],
        "commit": [3, None],
        "training_seconds": ["1", None],
        "threads": ["two"],
        "versions": [None, []],
    },
}
CASES = [
    (name, keys, value)
    for name, edits in JSON.items()
    for keys, values in edits.items()
    for value in values
]


def shown(value):
    return str(value)[:12]


@pytest.mark.parametrize(("name", "keys", "value"), CASES, ids=shown)
def test_a_json_file_that_was_edited_is_named(run, name, keys, value, capsys):
    edit(run, name, lambda content: both(content, keys, value))
    with pytest.raises(RecordError, match=str(run.path)):
        records.find_runs()
    for command in (["table", "1"], ["list"]):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and str(run.path) in err


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"a": 1e999}', '{"a": -1e999}', "NaN"])
def test_a_json_file_with_other_contents_is_named(run, name, text, capsys):
    (run.path / name).write_text(text)
    made_records.seal(run.path)
    with pytest.raises(RecordError, match=name.replace(".", r"\.")):
        records.read_run(run.path)
    assert main(["table", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", ["1e999", "-1e999", "Infinity", "NaN"])
def test_a_number_that_no_float_holds_is_refused_in_every_json_file(tmp_path, number):
    path = tmp_path / "x.json"
    path.write_text(f'{{"rows": [{{"seconds": {number}}}], "sha256": ""}}')
    with pytest.raises(RecordError, match=r"x\.json is not JSON: it has"):
        read_sealed(path)


def column(name, value, rows=slice(0, 1)):
    def change(table):
        table[name] = table[name].astype(object)
        table.loc[table.index[rows], name] = value
        return table

    return change


TABLES = {
    "half of the images": ("certificates.csv", lambda t: t[:5000], "each of the 10000 test images"),
    "one image": ("certificates.csv", lambda t: t[:-1], "each of the 10000 test images"),
    "every image": ("certificates.csv", lambda t: t[:0], "certificates"),
    "an image twice": ("certificates.csv", lambda t: pd.concat([t[:1], t[:-1]]), "in index"),
    "another order": ("certificates.csv", lambda t: t[::-1], "in index"),
    "a label": ("certificates.csv", column("label", 10), "in label"),
    "half a label": ("certificates.csv", column("label", 1.5), "in label"),
    "a prediction": ("certificates.csv", column("predicted", -1), "in predicted"),
    "a flag of 2": ("certificates.csv", column("survived_pgd", 2), "in survived_pgd"),
    "a flag that is empty": ("certificates.csv", column("certified_sound", ""), "certified_sound"),
    "a flag in letters": ("certificates.csv", column("certified_interval", "yes"), "certified_int"),
    "a radius below 0": ("certificates.csv", column("sound_radius", -0.1), "in sound_radius"),
    "an infinite radius": ("certificates.csv", column("interval_radius", "inf"), "interval_radius"),
    "a radius that is empty": ("certificates.csv", column("margin_radius", ""), "margin_radius"),
    "half of the sound columns": (
        "certificates.csv",
        lambda t: t.drop(columns="sound_radius"),
        "lacks the columns sound_radius",
    ),
    "a column": ("certificates.csv", lambda t: t.drop(columns="survived_pgd"), "lacks the columns"),
    "an accuracy": (
        "certificates.csv",
        column("certified_sound", 0, slice(0, 3000)),
        "must have the metrics that follow from certificates.csv",
    ),
    "half of the epochs": ("epochs.csv", lambda t: t[::2], "each of the 20 epochs"),
    "no epoch": ("epochs.csv", lambda t: t[:0], "each of the 20 epochs"),
    "an accuracy of training": ("epochs.csv", column("train_accuracy", 1.5), "train_accuracy"),
    "no number": ("epochs.csv", column("train_accuracy", "inf"), "train_accuracy"),
}


@pytest.mark.quick
@pytest.mark.parametrize("what", TABLES)
def test_a_table_that_was_edited_is_named(run, what, capsys):
    name, change, message = TABLES[what]
    edit(run, name, change)
    with pytest.raises(RecordError, match=message):
        records.read_run(run.path)
    assert main(["table", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_cannot_be_read_is_not_recorded(tmp_path, monkeypatch):
    """Metrics of other images: refused before the record has its name."""
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(records, "accuracies", lambda table: {"clean_accuracy": 1.0})
    with pytest.raises(RecordError, match="must have the metrics that follow from certificates"):
        made_records.record(tmp_path, epochs=[{"epoch": 1, "train_accuracy": 0.5}])
    assert records.find_runs() == [] and not [*(tmp_path / "runs").rglob("seed*")]


def test_a_setting_of_another_package_is_named(run):
    edit(run, "config.json", lambda c: both(c, "setting.net", {"type": "Other"}))
    changed = records.read_run(run.path)  # tables and curves do not need the net
    with pytest.raises(RecordError, match=r"config\.json must hold a setting that can be run"):
        runner.untrained(changed)


@pytest.mark.parametrize("name", data.DATASETS)
def test_the_number_of_test_images_is_the_data_set_s(name):
    try:
        test = data.load(name, "test", download=False)
    except data.DataError:
        pytest.skip(f"{name} is not where LINFDIST_DATA says")
    factor = test.info.num_classes if name == "tinyimagenet" else 1
    assert len(test) == TEST_IMAGES[name] * factor


def test_a_part_of_a_test_set_is_refused_before_training(tmp_path, monkeypatch):
    for folder in ("RUNS", "WORK"):
        monkeypatch.setenv(f"LINFDIST_{folder}", str(tmp_path / folder))
    load = data.load
    monkeypatch.setattr(data, "load", lambda *args: load(*args).take(100))
    monkeypatch.setattr(runner, "fit", lambda *args, **how: pytest.fail("trained"))
    with pytest.raises(data.DataError, match="must have 357 images for 10 classes; got 100"):
        runner.run(NET, scale="smoke", device="cpu")


# --- attacks and benches -------------------------------------------------------------------------


def edit_attack(run, summary=None, table=None):
    """Edit an attack, with sums that fit."""
    import hashlib

    path = run.path / "attacks.csv"
    if table is not None:
        table(pd.read_csv(path)).to_csv(path, index=False)
    content = read_sealed(run.path / "attacks.json")
    content["table_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    content |= summary or {}
    (run.path / "attacks.json").write_text(sealed_text(content))


@pytest.mark.parametrize(
    "change",
    [
        {"images": 10**6},
        {"images": 0},
        {"images": "all"},
        {"eps": "1/10"},
        {"eps": "1/0"},
        {"certified": 3},
        {"each": "yes"},
        {"seconds": {}},
        {"attacks": {}},
        {"attacks": [1]},
        {"images": 5000},
    ],
    ids=str,
)
def test_a_summary_of_an_attack_that_was_edited_is_named(run, change):
    assert find_attacks()[0].table.shape[0] > 0
    edit_attack(run, change)
    with pytest.raises(RecordError, match="attacks"):
        _ = read_attack(run).table


def beat(table):
    first = table.index[table["beaten_by"].isna()][0]
    table.loc[first, "beaten_by"] = "square"
    return table


def survive(table):
    return table.assign(beaten_by="")


@pytest.mark.parametrize(
    "change",
    [
        beat,
        survive,
        lambda t: t[: len(t) // 2],
        lambda t: t[::-1],
        lambda t: pd.concat([t, t[-1:]]),
        lambda t: t.assign(certified_interval=1 - t["certified_interval"]),
        lambda t: t.assign(label=t["label"] + 1),
        lambda t: t.assign(index=t["index"] + 10**6),
        lambda t: t.drop(columns="beaten_by"),
        lambda t: t.drop(columns="label"),
        lambda t: t.assign(pgd_20=2),
    ],
)
def test_a_table_of_an_attack_that_was_edited_is_named(run, change):
    edit_attack(run)
    before = len(read_attack(run).table)
    edit_attack(run, table=change)
    with pytest.raises(RecordError, match=r"attacks\.csv must agree with attacks\.json"):
        _ = read_attack(run).table
    assert before > 100


@pytest.mark.parametrize("name", ["giga_pairs_per_second", "ours_is_faster_by", "seconds"])
def test_a_speed_that_its_seconds_do_not_give_is_named(tmp_path, name):
    content = read_sealed(RUNS / "bench" / "cpu.json")
    path = tmp_path / "cpu.json"
    path.write_text(sealed_text(content))
    assert len(benches.load(path).rows) == len(content["rows"])
    timed = next(row for row in content["rows"] if "seconds" in row)
    timed[name] *= 10
    path.write_text(sealed_text(content))
    with pytest.raises(
        RecordError, match=r"cpu\.json must have the format of.* computed from its seconds"
    ):
        benches.load(path)
