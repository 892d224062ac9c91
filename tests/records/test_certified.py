"""One meaning of "certified": every source agrees at eps, in every run."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import made_records
from hypothesis import given, settings
from hypothesis import strategies as st

from linfdist import records, report
from linfdist.cli import main
from linfdist.data import to_pixels
from linfdist.experiments import recertify
from linfdist.nn import NetConfig, build_net, reestimate_mean_shift
from linfdist.records import RecordError, certified, certified_radii, eps_of
from linfdist.records.attacks import find_attacks
from linfdist.report.curves import certified_at
from linfdist.robust import interval_radius, sound_certificates, sound_certified

RUNS = records.find_runs()
EPOCHS = [{"epoch": 1, "p": 8.0, "train_accuracy": 0.5}]
NET = NetConfig(kind="net", hidden=(16, 16))
MLP = NetConfig(kind="net_mlp", hidden=(16, 16), mlp_hidden=8)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.place.as_posix())
def test_every_recorded_radius_agrees_with_its_verdict_at_eps(run):
    eps = float(eps_of(run))
    flags, radii = certified(run), certified_radii(run)
    assert flags.dtype == bool and ((radii >= eps) == flags).all()
    assert flags.mean() == pytest.approx(run.metrics["certified_accuracy"], abs=1e-12)
    assert certified_at([run], [eps])[eps] == pytest.approx(flags.mean(), abs=1e-12)
    assert not records.low_radii(run).any(), "python -m linfdist recertify raises them"


def test_every_decimal_of_a_sound_radius_is_at_least_eps_rounded_down():
    """From the text of the files, with fractions."""
    seen = 0
    for run in RUNS:
        text = pd.read_csv(run.path / "certificates.csv", dtype=str, keep_default_na=False)
        if "certified_sound" not in text or (text["certified_sound"] == "").any():
            continue
        least = Fraction(eps_of(run) * 10**6 // 1, 10**6)
        sound = text.loc[text["certified_sound"] == "1", "sound_radius"]
        assert all(Fraction(radius) >= least for radius in sound), run.path
        seen += len(sound)
    assert seen > 100_000


def test_attacks_count_what_the_tables_count():
    for found in find_attacks():
        first = certified(found.run)[: found.images]
        assert found.accuracies()["certified"] == first.mean()
        fates = report.fates(found)
        at_eps = fates["radius"] >= float(found.eps)
        assert ((fates["fate"] == "certified") == at_eps).all()
        # An image whose verdict rounding took back after the attack began is open, and was tried.
        open_ = found.run.certificates[: found.images][~first]
        assert {*open_.loc[open_["survived_pgd"] == 1, "index"]} <= {*found.table["index"]}


def small(config, seed):
    torch.manual_seed(seed)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=0.3)
    reestimate_mean_shift(net, [torch.rand(64, 1, 4, 4)])
    return net.eval()


@settings(max_examples=60, deadline=None)
@given(
    head=st.booleans(),
    seed=st.integers(0, 50),
    millionths=st.integers(0, 400_000),
    offset=st.sampled_from([-1e-3, -1e-6, -5e-7, 0.0, 5e-7, 1e-6, 3e-6, 1e-3]),
)
def test_a_sound_radius_is_at_least_eps_if_and_only_if_the_image_is_certified(
    head, seed, millionths, offset
):
    net, eps = small(MLP if head else NET, seed), Fraction(millionths + 1, 10**6)
    images = torch.randint(0, 256, (20, 1, 4, 4)).to(torch.uint8)
    labels = net(to_pixels(images)).argmax(1)
    found = interval_radius(net, to_pixels(images), labels, 1.0, eps=eps)
    # Radii near eps, and eps that are themselves such radii: where the search steps past eps.
    for radii, at in (((found + offset).clamp(0, 1), eps), (found, Fraction(found[0].item()))):
        flags, lowered = sound_certificates(net, images, labels, at, radii)
        assert flags.tolist() == sound_certified(net, images, labels, at).tolist()
        assert flags.tolist() == [at > 0 and Fraction(r) >= at for r in lowered.tolist()] or at == 0


def test_a_radius_just_above_eps_is_not_lowered_past_it():
    net = small(NET, 0)
    images = torch.randint(0, 256, (50, 1, 4, 4)).to(torch.uint8)
    labels = net(to_pixels(images)).argmax(1)
    largest, past = interval_radius(net, to_pixels(images), labels, 1.0, 40), 0
    for eps in (Fraction(radius) - Fraction(2, 10**6) for radius in largest.tolist()):
        if eps <= 0:
            continue
        radii = torch.full((50,), float(eps) + 5e-7, dtype=torch.float64)
        flags, lowered = sound_certificates(net, images, labels, eps, radii)
        assert (lowered[flags] >= float(eps)).all()
        past += int(flags.sum())
    assert past > 50


def made(tmp_path, monkeypatch, eps="8/255"):
    """A run of eight images around eps, with and without sound columns."""
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    run = made_records.record(tmp_path, "table1/cifar10_net", epochs=EPOCHS, test_images=8)
    table = run.certificates.assign(
        predicted=0,
        survived_pgd=1,
        certified_interval=[1, 1, 1, 1, 0, 0, 0, 0],
        interval_radius=[0.05, 0.031373, 0.031372, 0.031372, 0.031372, 0.03, 0.031372, 0.0],
        certified_sound=[1, 1, 1, 0, 0, 0, 0, 0],
        sound_radius=[0.031, 0.031372, 0.031371, 0.031372, 0.031372, 0.03, 0.0, 0.0],
    )
    made_records.rewrite(run.path, table)
    return records.read_run(run.path)


def test_at_eps_the_verdict_decides(tmp_path, monkeypatch):
    run = made(tmp_path, monkeypatch)
    eps = float(Fraction(8, 255))
    assert certified(run).tolist() == [True] * 3 + [False] * 5
    assert (certified_radii(run) >= eps).tolist() == certified(run).tolist()
    made_records.rewrite(
        run.path, run.certificates.drop(columns=["sound_radius", "certified_sound"])
    )
    run = records.read_run(run.path)
    assert certified(run).tolist() == [True] * 4 + [False] * 4
    assert (certified_radii(run) >= eps).tolist() == certified(run).tolist()
    empty = run.certificates.assign(sound_radius=np.nan, certified_sound=np.nan)
    made_records.rewrite(run.path, empty)
    assert certified(records.read_run(run.path)).tolist() == [True] * 4 + [False] * 4


def test_low_radii_are_raised_once_and_nothing_else_changes(tmp_path, monkeypatch, capsys):
    run = made(tmp_path, monkeypatch)
    (run.path / "attacks.csv").write_text("an attack")
    before = run.certificates.copy()
    assert records.low_radii(run).tolist() == [True, False, True] + [False] * 5
    assert main(["recertify", "table1/cifar10_net", "--device", "cpu", "--quiet"]) == 0
    assert "2 radii raised to eps" in capsys.readouterr().out
    done = records.read_run(run.path)
    after = done.certificates
    assert after["sound_radius"].tolist()[:3] == [0.031372] * 3
    names = [name for name in before if name != "sound_radius"]
    pd.testing.assert_frame_equal(after[names], before[names])
    assert after["sound_radius"][3:].equals(before["sound_radius"][3:])
    noted = done.environment.pop("radii_raised")
    assert done.environment == run.environment and noted["images"] == 2
    assert {"commit", "dirty", "versions", "device"} <= {*noted}
    assert (done.metrics, done.config) == (run.metrics, run.config)
    assert (run.path / "attacks.csv").read_text() == "an attack"
    assert recertify.recertify(done) is None
    with pytest.raises(RecordError, match="no sound radius lies below eps"):
        records.raise_low_radii(done)
