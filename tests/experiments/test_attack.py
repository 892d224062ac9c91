"""Recorded runs are attacked, once and honestly, and no certified image is ever beaten."""

import json
import math
import os
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import made_records

from linfdist import data, experiments, records, report
from linfdist.cli import main
from linfdist.data import to_pixels
from linfdist.experiments import attack as experiments_attack
from linfdist.experiments import runner
from linfdist.nn import LogSumExp
from linfdist.records import RecordError, RunExists
from linfdist.records import attacks as records_attacks
from linfdist.records.attacks import find_attacks, read_attack
from linfdist.records.files import json_text, read_sealed, sealed_text
from linfdist.robust import strongest
from linfdist.robust.attacks import ensemble
from linfdist.robust.attacks.ensemble import AttackSetting

RECORDED = Path(__file__).resolve().parents[2] / "runs"
NET = "table1/mnist_net"
QUICK = {
    "pgd_3": AttackSetting("pgd", {"num_steps": 3}),
    "guided_100": AttackSetting("guided_pgd", {"guide": 100.0, "num_steps": 10}),
    "guided_lse": AttackSetting("guided_pgd", {"guide": LogSumExp(30.0), "num_steps": 3}),
}
WORK = os.environ.get("LINFDIST_WORK")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short smoke run and its weights, to be copied."""
    folder = tmp_path_factory.mktemp("trained")
    smoke = experiments.get_setting(NET, "smoke")
    train = replace(smoke.train, epochs=(0, 8, 2), train_images=640)
    setting = replace(smoke, net=replace(smoke.net, hidden=(32, 32)), train=train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "get_setting", lambda name, scale: setting)
        patch.setenv("LINFDIST_RUNS", str(folder / "runs"))
        patch.setenv("LINFDIST_WORK", str(folder / "work"))
        runner.run(NET, scale="smoke", progress=False)
    return folder


@pytest.fixture
def folder(trained, tmp_path, monkeypatch):
    """A copy of the run, attacked by three attacks."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(experiments_attack, "GUIDED", QUICK)
    return tmp_path


def only_run():
    (run,) = records.find_runs()
    return run


COMMAND = ["attack", NET, "--scale", "smoke", "--quiet"]


def test_an_attack_is_recorded_beside_the_run_and_once(folder, capsys):
    assert main([*COMMAND, "--certified", "5"]) == 0
    out = capsys.readouterr().out
    assert re.match(rf"{NET} seed 0: clean [\d.]+, pgd [\d.]+, strongest [\d.]+, certified", out)
    (found,) = find_attacks()
    run = found.run
    assert found == read_attack(run) and found.eps == Fraction(1, 10)
    assert found.certified == 5 and found.seed == 0 and not found.each
    assert found.images == len(run.certificates)
    assert found.attacks["guided_100"] == {"method": "guided_pgd", "guide": 100.0, "num_steps": 10}
    assert found.attacks["guided_lse"]["guide"] == "LogSumExp(t=30.0, matched=False)"
    assert {*found.seconds} == {*found.attacks} and found.environment["versions"]

    shown, metrics = found.accuracies(), run.metrics
    assert shown["certified"] <= shown["strongest"] < shown["pgd"] < shown["clean"]
    for name in ("clean", "pgd", "certified"):
        assert shown[name] == metrics[f"{name}_accuracy"]
    assert [*shown] == ["clean", "pgd", "strongest", "certified"]
    assert len(found.unsound) == 0

    before = (run.path / "attacks.csv").read_bytes()
    assert main(COMMAND) == 2
    assert "a run is attacked only once" in capsys.readouterr().err
    assert (run.path / "attacks.csv").read_bytes() == before
    assert records.read_run(run.path).metrics == metrics  # the record itself is as it was


def test_what_is_attacked_and_by_what(folder):
    run = only_run()
    found = experiments_attack.attack_run(run, images=200, certified=3, progress=False)
    first = run.certificates[:200]
    open_ = first[(first["survived_pgd"] == 1) & (first["certified_interval"] == 0)]
    assert found.missed["index"].tolist() == open_["index"].tolist() and len(open_) > 0
    sure = found.table[found.table["certified"]]
    assert len(sure) == 3
    radii = records.certified_radii(run)[:200][records.certified(run)[:200]]
    assert radii[sure["index"]].max() <= radii.drop(sure["index"]).min()
    for row in found.table.itertuples():
        beaten = [name for name in QUICK if getattr(row, name) == 0]
        assert beaten == ([] if pd.isna(row.beaten_by) else [row.beaten_by])
    assert set(found.missed["beaten_by"].dropna()) >= {"guided_100"}


def test_the_attack_finds_what_the_ensemble_finds(folder):
    run = only_run()
    found = experiments_attack.attack_run(run, certified=0, progress=False)
    test = data.load("digits", "test")
    rows = torch.tensor(found.table["index"].tolist())
    ours = strongest(
        runner.load_trained(run),
        to_pixels(test.images[rows]),
        test.labels[rows],
        found.eps,
        attacks={"pgd_3": QUICK["pgd_3"]},
        generator=torch.Generator().manual_seed(0),
    )
    assert ours.survived.int().tolist() == found.table["pgd_3"].tolist()


def test_each_attack_can_be_tried_on_every_image(folder):
    found = experiments_attack.attack_run(only_run(), certified=2, each=True, progress=False)
    assert found.each and found.table[[*QUICK]].notna().all(axis=None)
    for row in found.table.itertuples():
        beaten = [name for name in QUICK if getattr(row, name) == 0]
        assert [row.beaten_by] == beaten[:1] if beaten else pd.isna(row.beaten_by)
    shown = found.accuracies()
    assert {*QUICK} < {*shown}
    assert shown["strongest"] <= min(shown[name] for name in QUICK)
    assert shown["guided_100"] < shown["pgd_3"] <= shown["pgd"]


def test_the_report_says_what_part_of_the_gap_is_closed(folder):
    found = experiments_attack.attack_run(only_run(), certified=2, each=True, progress=False)
    (row,) = report.robust_column("smoke").itertuples()
    missed = found.missed
    assert row.missed == len(missed) and row.beaten == missed["beaten_by"].notna().sum()
    assert row.share == pytest.approx((row.robust - row.strongest) / (row.robust - row.certified))
    assert 0 < row.low < row.share < row.high < 1
    table = report.by_attack("smoke")
    assert table.index.tolist() == [*QUICK] and table.shape == (3, 1)
    assert table.iloc[:, 0].max() <= row.share
    assert (
        f"{row.share:.0%} ({row.low:.0%} to {row.high:.0%})"
        in report.show_robust_column("smoke").to_html()
    )


def test_wilson_s_interval():
    """Of 8 out of 10 and of 0 out of 10, worked out by hand."""
    assert report.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert report.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert report.wilson(10, 10)[1] == pytest.approx(1) and all(
        map(math.isnan, report.wilson(0, 0))
    )


def test_attacks_are_repeatable(folder):
    run = only_run()
    tables = []
    for _ in range(2):
        tables.append(experiments_attack.attack_run(run, images=150, progress=False).table)
        for name in (records_attacks.TABLE, records_attacks.SUMMARY):
            (run.path / name).unlink()
    assert tables[0].equals(tables[1])


def test_a_beaten_certificate_is_called_by_its_name(folder, capsys):
    """A certificate that claims too much, planted in the record."""
    path = only_run().path / "certificates.csv"
    table = pd.read_csv(path)
    for name in ("certified_interval", "certified_sound"):
        table[name] = table["survived_pgd"]
    made_records.rewrite(path.parent, table)
    assert main([*COMMAND, "--certified", "1000"]) == 1
    err = capsys.readouterr().err
    assert re.search(r"UNSOUND: \d+ certified images of .*seed0 were beaten, image \d+", err)
    assert len(read_attack(only_run()).unsound) > 0


def test_missing_weights_and_runs_are_named_and_the_others_go_on(folder, capsys):
    again = ["attack", "table1/mnist_net_mlp", *COMMAND[1:]]
    assert main(again) == 2
    err = capsys.readouterr().err
    assert re.search(r"mnist_net_mlp/smoke/seed0 must be a recorded run", err)
    (found,) = find_attacks()
    assert found.run.experiment == NET

    for name in (records_attacks.TABLE, records_attacks.SUMMARY):
        (found.run.path / name).unlink()
    weights = folder / "work" / NET / "smoke" / "seed0" / "weights.pt"
    weights.rename(weights.with_name("elsewhere.pt"))
    assert main(COMMAND) == 2
    assert "must hold the weights" in capsys.readouterr().err
    weights.write_bytes(b"other weights")
    assert main(COMMAND) == 2
    assert "these are not the weights" in capsys.readouterr().err
    assert find_attacks() == []


def test_a_stopped_attack_leaves_nothing(folder, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments_attack, "survivors", stop)
    assert main(COMMAND) == 130
    assert "no attack on table1/mnist_net was recorded" in capsys.readouterr().err
    assert sorted(path.name for path in only_run().path.iterdir()) == sorted(
        [*records.FILES, records.CHECKSUMS]
    )


@pytest.mark.parametrize("fails", ["attacks.csv", "attacks.json"])
def test_an_attack_that_cannot_be_written_can_be_made_again(folder, monkeypatch, fails):
    replace = os.replace

    def full(source, target):
        if Path(target).name == fails:
            raise OSError(28, "No space left on device")
        replace(source, target)

    run = only_run()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(
            RecordError, match=r"attacks\..* must be written completely.*No space left"
        ):
            experiments_attack.attack_run(run, images=100, progress=False)
    assert find_attacks() == []
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]
    assert experiments_attack.attack_run(run, images=100, progress=False).images == 100


def test_damaged_records_are_refused_by_name(folder):
    run = only_run()
    with pytest.raises(RecordError, match=r"must hold attacks\.csv and attacks\.json"):
        read_attack(run)
    experiments_attack.attack_run(run, images=100, progress=False)
    with pytest.raises(RunExists, match="a run is attacked only once"):
        experiments_attack.attack_run(run)
    path = run.path / "attacks.json"
    good = path.read_text()

    def sealed_with(old, new):
        return sealed_text(json.loads(json_text(read_sealed(path)).replace(old, new)))

    for bad, message in (
        (good[:-9], "is not JSON"),
        (good.replace('"images": 100', '"images": 101'), "must have contents with the sha256"),
        (sealed_with('"eps"', '"esp"'), "is not the summary of an attack"),
        (sealed_with(run.weights_sha256, "0" * 64), "must belong to the run's weights"),
    ):
        path.write_text(bad)
        with pytest.raises(RecordError, match=message):
            read_attack(run)
    path.write_text(good)
    table = run.path / "attacks.csv"
    table.write_text(table.read_text().replace(",0,", ",1,", 1))
    with pytest.raises(RecordError, match=r"must have the SHA-256 that attacks\.json names"):
        _ = read_attack(run).table


def test_bad_arguments_are_refused_by_name(folder, capsys):
    with pytest.raises(ValueError, match="attack_run: images must be at least 1; got 0"):
        experiments_attack.attack_run(only_run(), images=0)
    with pytest.raises(SystemExit):
        main(["attack", NET, "--images", "-3"])
    assert "must be a whole number of at least 1; got '-3'" in capsys.readouterr().err
    assert main(["attack", "table1/mnist_nte"]) == 2
    assert "Did you mean 'table1/mnist_net'" in capsys.readouterr().err
    assert main([*COMMAND, "--device", "gpu"]) == 2
    assert "device 'gpu' cannot be used" in capsys.readouterr().err


def test_no_certified_image_of_a_recorded_attack_was_beaten(monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(RECORDED))
    found = find_attacks()
    assert len(found) >= 8
    assert sum(int(record.table["certified_interval"].sum()) for record in found) >= 40
    for record in found:
        assert record.unsound.empty, record.run.path
        assert record.environment["dirty"] is False
        shown = record.accuracies()
        assert shown["certified"] <= shown["strongest"] <= shown["pgd"] <= shown["clean"]
        first = record.run.certificates[: record.images]
        open_ = first[(first["survived_pgd"] == 1) & (first["certified_interval"] == 0)]
        assert {*open_["index"]} <= {*record.table["index"]}


@pytest.mark.skipif(not WORK, reason="the weights of recorded runs are where LINFDIST_WORK says")
def test_recorded_nets_keep_their_thinnest_certificates(monkeypatch):
    """A few images of every recorded net whose weights are there."""
    monkeypatch.setenv("LINFDIST_RUNS", str(RECORDED))
    tried = 0
    for run in records.find_runs(scale="reduced"):
        if not (records.work_dir(run.experiment, run.scale, run.seed) / "weights.pt").is_file():
            continue
        try:
            test = data.load(run.config["setting"]["dataset"], "test", download=False)
        except data.DataError:
            continue
        rows = experiments_attack.pick(run, len(run.certificates), 2)["index"]
        rows = rows[records.certified(run)[rows].to_numpy()].tolist()
        net = runner.load_trained(run)
        guide = (
            math.inf if "guided_lse" not in experiments_attack.attacks_on(net) else LogSumExp(30.0)
        )
        attacks = {"guided": AttackSetting("guided_pgd", {"guide": guide, "num_steps": 5})}
        pixels, labels = to_pixels(test.images[rows]), test.labels[rows]
        eps = Fraction(run.config["setting"]["eps"])
        survived = strongest(net, pixels, labels, eps, attacks=attacks).survived
        assert survived.all(), f"{run.path}: certified, and beaten"
        tried += 1
    if not tried:
        pytest.skip(f"no recorded run has its weights in {WORK} and its data set in LINFDIST_DATA")


def test_settings_are_ready_for_json():
    for attack in (*ensemble.GUIDED.values(), *ensemble.CONVENTIONAL.values()):
        written = json.loads(json.dumps(experiments_attack._settings(attack), allow_nan=False))
        assert written["method"] == attack.method
        assert written.keys() == {"method", *attack.arguments}
