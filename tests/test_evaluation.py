"""Evaluation: the table and the accuracies that follow from it."""

import io
import math
import sys
from fractions import Fraction

import pandas as pd
import pytest
import torch
from helpers import small_baselines

from linfdist import records
from linfdist.data import DatasetInfo, ImageSet, to_pixels
from linfdist.evaluation import (
    CERTIFICATE_COLUMNS,
    ContradictionError,
    accuracy,
    clean_and_certified,
    evaluate,
)
from linfdist.nn import LogSumExp, NetConfig, build_net, frozen, reestimate_mean_shift
from linfdist.ops.precision import matmul_precision
from linfdist.robust import interval_certified, margin_radius, sound_certified
from linfdist.robust.certificates import ROUNDING

INFO = DatasetInfo(
    name="noise",
    title="Noise",
    input_shape=(1, 4, 4),
    num_classes=3,
    mean=(0.5,),
    std=0.3,
    eps=Fraction(1, 20),
)
NET = NetConfig(kind="net", hidden=(16, 16))
MLP = NetConfig(kind="net_mlp", hidden=(16, 16), mlp_hidden=8)
BOTH = pytest.mark.parametrize("config", [NET, MLP], ids=lambda config: config.kind)
EPS = Fraction(2, 100)


def small(config):
    torch.manual_seed(1)
    net = build_net(config, input_shape=(1, 4, 4), num_classes=3, mean=(0.5,), std=0.3)
    reestimate_mean_shift(net, [torch.rand(256, 1, 4, 4)])
    return net


def noise(net, n=100):
    images = torch.randint(0, 256, (n, 1, 4, 4), generator=torch.Generator().manual_seed(2))
    images = images.to(torch.uint8)
    labels = net.eval()(to_pixels(images)).argmax(1)
    labels[::8] = (labels[::8] + 1) % 3
    return ImageSet(images, labels, INFO)


@pytest.mark.quick
@BOTH
def test_table_and_metrics(config):
    net = small(config)
    test = noise(net)
    found, table = evaluate(net, test, EPS, batch_size=32)
    pixels = to_pixels(test.images)
    assert tuple(table.columns) == CERTIFICATE_COLUMNS and table["index"].tolist() == list(
        range(100)
    )
    assert table["label"].tolist() == test.labels.tolist()
    assert table["predicted"].tolist() == net(pixels).argmax(1).tolist()
    certified = interval_certified(net, pixels, test.labels, EPS)
    assert table["certified_interval"].tolist() == certified.tolist()
    assert found["clean_accuracy"] == 0.87
    assert found["certified_accuracy"] == certified.double().mean().item()
    if config is NET:
        radius = margin_radius(net, pixels, test.labels)
        assert table["margin_radius"].tolist() == radius.tolist()
        assert table["certified_margin"].tolist() == (radius > float(EPS)).tolist()
        assert found["certified_accuracy_margin"] <= found["certified_accuracy"]
    else:
        assert table["margin_radius"].isna().all() and table["certified_margin"].isna().all()
        assert "certified_accuracy_margin" not in found


@pytest.mark.quick
@BOTH
def test_the_sound_columns(config):
    net = small(config)
    test = noise(net)
    for eps in (EPS, Fraction(9, 10)):
        with matmul_precision("high"):  # it is put aside: certificates are of float32
            found, table = evaluate(net, test, eps)
        sound = sound_certified(net, test.images, test.labels, eps)
        assert table["certified_sound"].tolist() == sound.tolist()
        assert [Fraction(r) >= eps for r in table["sound_radius"]] == sound.tolist()
        assert found["certified_accuracy"] == sound.double().mean().item()
        assert (table["certified_sound"] <= table["certified_interval"]).all()


def test_a_network_without_sound_certificates_has_empty_columns():
    net = small_baselines.small("cap").float()
    images = ImageSet(torch.zeros(4, 2, 8, 8, dtype=torch.uint8), torch.zeros(4).long(), INFO)
    found, table = evaluate(net, images, EPS)
    assert table[["sound_radius", "certified_sound"]].isna().to_numpy().all()
    assert found["certified_accuracy"] == table["certified_interval"].mean()


def test_a_sound_verdict_that_intervals_deny_is_a_bug(monkeypatch):
    net = small(NET)
    monkeypatch.setattr("linfdist.evaluation.interval_certified", lambda n, x, y, e: y < 0)
    with pytest.raises(
        ContradictionError, match="certified_sound must imply certified_interval; it does not"
    ):
        evaluate(net, noise(net), EPS)


@pytest.mark.quick
@BOTH
@pytest.mark.parametrize("eps", [Fraction(0), Fraction(1, 100), Fraction(1, 10), Fraction(9, 10)])
def test_certified_at_most_pgd_at_most_clean(config, eps):
    net = small(config)
    found, table = evaluate(net, noise(net), eps)
    assert found["certified_accuracy"] <= found["pgd_accuracy"] <= found["clean_accuracy"]
    clean = table["predicted"] == table["label"]
    assert (table["certified_interval"] <= table["survived_pgd"]).all()
    assert (table["survived_pgd"] <= clean).all()


@pytest.mark.quick
@BOTH
def test_radii_agree_with_the_verdicts(config):
    net = small(config)
    for eps in (EPS, Fraction(9, 10)):
        _, table = evaluate(net, noise(net), eps)
        certified = table["certified_interval"]
        assert (certified == (table["interval_radius"] >= float(eps))).all() or eps == 0
        assert (table["interval_radius"] <= float(max(min(1, 4 * eps), eps))).all()
        assert (table["interval_radius"][table["predicted"] != table["label"]] == 0).all()


def test_the_intervals_radius_is_at_least_the_margins():
    net = small(NET)
    _, table = evaluate(net, noise(net), EPS)
    by_margin = (table["margin_radius"] - ROUNDING).clip(0, float(4 * EPS))
    assert (table["interval_radius"] >= by_margin).all()


@BOTH
def test_metrics_follow_from_the_table_as_it_is_stored(config):
    net = small(config)
    found, table = evaluate(net, noise(net), EPS)
    stored = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert records.accuracies(stored) == found


def test_the_batch_size_changes_only_the_attack_s_starts():
    net = small(NET)
    test = noise(net)
    _, one = evaluate(net, test, EPS, batch_size=100)
    _, other = evaluate(net, test, EPS, batch_size=7)
    exact = [name for name in CERTIFICATE_COLUMNS if name != "survived_pgd"]
    pd.testing.assert_frame_equal(one[exact], other[exact])


def test_the_same_seed_gives_the_same_table():
    net = small(MLP)
    test = noise(net)
    pd.testing.assert_frame_equal(*(evaluate(net, test, EPS, seed=5)[1] for _ in range(2)))


def test_accuracy_is_taken_at_its_p_and_batch_by_batch():
    net = small(NET)
    test = noise(net)
    assert accuracy(net, test) == accuracy(net, test, batch_size=7) == 0.87
    expected = (net(to_pixels(test.images), 2.0).argmax(1) == test.labels).double().mean()
    assert accuracy(net, test, p=2.0) == expected.item() != 0.87


@BOTH
@pytest.mark.parametrize("p", [LogSumExp(1.5), LogSumExp(30.0, matched=True), math.inf])
def test_no_image_certified_by_the_constant_changes_its_class(config, p):
    """Of the network at this p: smoothed or not, its features are 1-Lipschitz."""
    net = small(config)
    test = noise(net)
    clean, certified = clean_and_certified(net, test, eps=EPS, p=p)
    assert clean == accuracy(net, test, p=p)
    assert 0 < certified < clean
    assert clean_and_certified(net, test, eps=Fraction(0), p=p)[1] == clean
    pixels = to_pixels(test.images)
    survived = torch.ones(len(test), dtype=torch.bool)
    for seed in range(20):
        signs = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(seed)).sign()
        with frozen(net) as still, torch.no_grad():
            survived &= still(pixels + float(EPS) * signs, p).argmax(1) == test.labels
    assert survived.double().mean() >= certified


def test_a_margin_of_exactly_eps_is_no_certificate():
    """The theorem is of every eps below the radius."""
    net = small(NET)
    test = noise(net)
    radius = margin_radius(net, to_pixels(test.images), test.labels)
    eps = Fraction(radius[1].item())
    assert eps > 0
    _, table = evaluate(net, test, eps)
    assert table["margin_radius"][1] == float(eps) and not table["certified_margin"][1]
    _, table = evaluate(net, test, eps * Fraction(999_999, 1_000_000))
    assert table["certified_margin"][1]


@pytest.mark.parametrize("config", [NET, MLP], ids=lambda config: config.kind)
def test_a_tie_is_not_certified_by_the_constant(config):
    net = small(config).requires_grad_(False)
    last = net.last if config is NET else net.fc2
    last.weight[1:] = last.weight[0]
    last.bias.zero_()
    test = ImageSet(noise(net).images, torch.zeros(100, dtype=torch.int64), INFO)
    assert clean_and_certified(net, test, eps=Fraction(0)) == (1, 0)


def test_a_finite_p_certifies_nothing():
    net = small(NET)
    assert clean_and_certified(net, noise(net), eps=EPS, p=8.0)[1] is None


def test_the_network_is_left_in_its_mode():
    net = small(NET)
    test = noise(net)
    net.train()
    evaluate(net, test, EPS)
    assert net.training


def test_the_bar_counts_images(monkeypatch, capsys):
    net = small(NET)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    evaluate(net, noise(net), EPS, batch_size=50)
    assert "100/100" in capsys.readouterr().err
    evaluate(net, noise(net), EPS, progress=False)
    assert capsys.readouterr().err == ""


def test_bad_input_is_refused_by_name():
    net = small(NET)
    test = noise(net)
    none = ImageSet(test.images[:0], test.labels[:0], INFO)
    with pytest.raises(ValueError, match="evaluate: test must hold at least one image"):
        evaluate(net, none, EPS)
    with pytest.raises(ValueError, match="accuracy: images must hold at least one image"):
        accuracy(net, none)
    with pytest.raises(ValueError, match="eps must be at least 0"):
        evaluate(net, test, Fraction(-1, 10))
    net.features.layers[1].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"evaluate: weights must be finite; features\.layers\.1"):
        evaluate(net, test, EPS)
