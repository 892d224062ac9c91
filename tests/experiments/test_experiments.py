"""The settings equal the paper's, and differ from them where their names say so."""

from dataclasses import replace
from fractions import Fraction

import pandas as pd
import pytest

from linfdist import data, experiments
from linfdist.baselines import BaselineConfig
from linfdist.data import Augmentation
from linfdist.experiments import (
    UnknownName,
    baselines,
    differences,
    smoothing_study,
    table2,
    table3,
    table7,
    table9,
)
from linfdist.robust import HingeLoss, IBPLoss

ROWS = (
    "mnist_net",
    "mnist_net_mlp",
    "fashion_mnist_net",
    "fashion_mnist_net_mlp",
    "cifar10_net",
    "cifar10_net_mlp",
)
LSE_ROWS = tuple(f"{row}_lse" for row in ROWS)
MIXTURE_ROWS = {
    "cifar10_net_mixture": "mixture loss",
    "cifar10_net_mixture_long": "mixture loss, longer",
}
GATED_ROW = "cifar10_net_mlp_gated"
RETRAINED_ROWS = (*MIXTURE_ROWS, GATED_ROW)
NET = "table1/mnist_net"


def test_every_row_of_our_own_is_there():
    names = {f"table1/{row}" for row in (*LSE_ROWS, *RETRAINED_ROWS)} | set(PAPER)
    for rows in (
        *(module.EXPERIMENTS for module in (baselines, differences, smoothing_study)),
        *(module.TABLE.rows for module in (table2, table3, table7, table9)),
    ):
        names |= {experiment.name for experiment in rows}
    assert set(experiments.EXPERIMENTS) == names
    assert (
        len(smoothing_study.EXPERIMENTS) == len({e.title for e in smoothing_study.EXPERIMENTS}) * 2
    )
    assert all(set(e.scales) == set(experiments.SCALES) for e in experiments.EXPERIMENTS.values())


def test_the_rows_of_differences_change_the_loss_alone():
    losses = {"mix_75": (1, 0.75), "mix_0": (1, 0.0), "half_t": (0.5, 1.0), "double_t": (2, 1.0)}
    assert [row.name for row in differences.EXPERIMENTS] == [
        f"differences/mnist_net_{name}" for name in losses
    ]
    for row, (times, mix) in zip(differences.EXPERIMENTS, losses.values(), strict=True):
        for scale, setting in row.scales.items():
            base = differences.BASE.scales[scale]
            assert base.train.loss.mix == 1
            assert setting.train.loss.mix == mix
            assert setting.train.loss.threshold == base.train.loss.threshold * Fraction(times)
            assert replace(setting, train=replace(setting.train, loss=base.train.loss)) == base


# Table 6 and Sec. 7.1, typed from the paper a second time: the loss, the epochs, the augmentation.
PAPER = {
    "table1/mnist_net": (HingeLoss(threshold=Fraction("0.9")), (50, 300, 50), (1, False, None)),
    "table1/mnist_net_mlp": (
        IBPLoss(eps_train=Fraction("0.35"), kappa=0.5),
        (50, 300, 50),
        (1, False, None),
    ),
    "table1/fashion_mnist_net": (
        HingeLoss(threshold=Fraction("0.45")),
        (50, 300, 50),
        (1, False, None),
    ),
    "table1/fashion_mnist_net_mlp": (
        IBPLoss(eps_train=Fraction("0.11"), kappa=0.5),
        (50, 300, 50),
        (1, False, None),
    ),
    "table1/cifar10_net": (
        HingeLoss(threshold=Fraction(80, 255)),
        (100, 650, 50),
        (4, True, None),
    ),
    "table1/cifar10_net_mlp": (
        IBPLoss(eps_train=Fraction("8.8") / 255, kappa=0),
        (100, 650, 50),
        (4, True, None),
    ),
    "table2/tinyimagenet_net_mlp": (
        IBPLoss(eps_train=Fraction("0.005"), kappa=0),
        (100, 350, 50),
        (0, True, 56),
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_scale_is_the_papers(name):
    loss, epochs, augmentation = PAPER[name]
    setting = experiments.get_setting(name, "paper")
    train = setting.train
    assert train.loss == loss
    assert train.epochs == epochs
    assert train.augmentation == Augmentation(*augmentation)
    assert train.lr == (0.04 if "tinyimagenet" in name else 0.02)
    assert (train.batch_size, train.betas, train.adam_eps) == (512, (0.9, 0.99), 1e-10)
    assert (train.weight_decay, train.decay) == (0.005, "lp")
    assert (train.p_start, train.p_end) == (8, 1000)
    assert train.train_images is None
    assert setting.test_images is None
    deep = 4 if "mnist" in name else 5
    assert setting.net.hidden == (5120,) * deep
    assert setting.net.mlp_hidden == (512 if name.endswith("mlp") else None)
    assert setting.net.identity_value == -10
    assert setting.eps == data.DATASETS[setting.dataset].eps


def test_the_radii_are_the_papers():
    radii = {name: experiments.get(name).eps for name in PAPER}
    assert radii == {
        **dict.fromkeys(("table1/mnist_net", "table1/mnist_net_mlp"), Fraction("0.3")),
        **dict.fromkeys(
            ("table1/fashion_mnist_net", "table1/fashion_mnist_net_mlp"), Fraction("0.1")
        ),
        **dict.fromkeys(("table1/cifar10_net", "table1/cifar10_net_mlp"), Fraction(8, 255)),
        "table2/tinyimagenet_net_mlp": Fraction(1, 255),
    }


@pytest.mark.parametrize("row", ROWS)
def test_rows_with_logsumexp_differ_from_the_papers_in_smoothing(row):
    ours, paper = experiments.get(f"table1/{row}_lse"), experiments.get(f"table1/{row}")
    assert ours.title == f"{paper.title}, LogSumExp"
    assert (ours.paper, ours.dataset, ours.eps) == (paper.paper, paper.dataset, paper.eps)
    lp = {"smoothing": "lp", "p_rise": None, "p_end": 1000.0, "relaxation": 1.0}
    for scale in ("smoke", "paper"):
        setting, of_paper = ours.scales[scale], paper.scales[scale]
        back = replace(setting.train, **lp, matmul_precision="highest")
        assert replace(setting, train=back) == of_paper != setting
    reduced, of_paper = ours.scales["reduced"], paper.scales["reduced"]
    assert min(reduced.net.hidden) >= 1024 > max(of_paper.net.hidden)
    assert sum(reduced.train.epochs) > sum(of_paper.train.epochs)


@pytest.mark.parametrize("name", RETRAINED_ROWS)
def test_retrained_rows_differ_in_the_loss_decay_and_padding(name):
    ours, gated = experiments.get(f"table1/{name}"), name == GATED_ROW
    lse = experiments.get("table1/cifar10_net_mlp_lse" if gated else "table1/cifar10_net_lse")
    assert ours.title == f"{lse.title}, {'gated loss' if gated else MIXTURE_ROWS[name]}"
    assert (ours.paper, ours.dataset, ours.eps) == (lse.paper, lse.dataset, lse.eps)
    for scale, setting in ours.scales.items():
        of_lse, train = lse.scales[scale], setting.train
        smoke, eps = scale == "smoke", setting.eps
        if gated:
            assert train.loss.weights == (1.0, 0.5, 0.02)
            assert train.loss.eps_train == (1 if smoke else Fraction(11, 10)) * eps
        else:
            assert train.loss.weights == (1.0, 0.1, 0.0005)
            assert train.loss.threshold == (3 if smoke else 6) * eps
        edge = Augmentation(padding=3, flip=True, pad_with="edge")
        assert train.augmentation == (Augmentation() if smoke else edge)
        assert train.decay == "none"
        same = {key: getattr(of_lse.train, key) for key in ("loss", "decay", "augmentation")}
        if scale == "reduced":
            same |= {key: getattr(of_lse.train, key) for key in ("epochs", "batch_size")}
            setting = replace(setting, net=of_lse.net)
        assert replace(setting, train=replace(train, **same)) == of_lse


@pytest.mark.parametrize("row", smoothing_study.BASE_ROWS)
def test_the_study_changes_what_its_titles_say(row):
    named = {
        variant.name: experiments.get(f"smoothing/{row}_{variant.name}")
        for variant in smoothing_study.VARIANTS
    }
    table = experiments.get(f"table1/{row}")
    assert named["lp"].scales["paper"] == table.scales["paper"]
    base, changed = (named[name].scales["reduced"] for name in ("then", "then_long_end"))
    e1, e2, e3 = base.train.epochs
    assert changed == replace(base, train=replace(base.train, epochs=(e1, e2, 2 * e3)))
    assert {e.scales["reduced"].train.train_images for e in named.values()} == {10_240}
    starts = {name: e.scales["reduced"].net.identity_value for name, e in named.items()}
    assert {name for name, value in starts.items() if value != -4} == {
        "lp_from_minus_10",
        "then_from_minus_10",
    }
    assert len({repr(e.scales["reduced"]) for e in named.values()}) == len(named)


@pytest.mark.parametrize("number", [1, 2, 3, 9])
def test_papers_numbers_are_in_order(number):
    table = experiments.TABLES[number]
    for row in (*table.experiments, *table.quoted):
        paper = row.paper
        between = paper.certified_accuracy if paper.pgd_accuracy is None else paper.pgd_accuracy
        assert 0 < paper.certified_accuracy <= between <= paper.clean_accuracy < 1


def test_every_other_method_of_the_paper_is_quoted_or_rerun():
    others = baselines.EXPERIMENTS
    counts = pd.Series([row.dataset for row in others]).value_counts()
    assert counts.to_dict() == {"mnist": 4, "fashion_mnist": 3, "cifar10": 6}
    assert len({(row.dataset, row.title) for row in others}) == len(others)
    assert [row.paper.flops for row in table2.TABLE.quoted] == ["64M", "575M", "5.22G"]
    assert all(row.reason for row in table2.TABLE.quoted)


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_the_reduced_scale_differs_in_size_alone(name):
    paper, reduced = (experiments.get_setting(name, scale) for scale in ("paper", "reduced"))
    assert (reduced.dataset, reduced.eps) == (paper.dataset, paper.eps)
    assert reduced.net.kind == paper.net.kind
    if isinstance(reduced.net, BaselineConfig):
        assert reduced.net.width <= 1 == paper.net.width
    else:
        assert max(reduced.net.hidden) < 5120
    assert sum(reduced.train.epochs) < sum(paper.train.epochs)


def test_cnn7_bn_is_trained_as_its_authors_code_does():
    """The defaults of [Xu2020]'s script for TinyImageNet: 600 epochs, eps from the 100th on."""
    setting = experiments.get_setting("table2/tinyimagenet_cnn7_bn", "paper")
    train = setting.train
    assert (train.bound, train.epochs, train.kappa) == ("loss_fusion", (100, 400, 100), (0, 0))
    assert (train.eps_train, setting.eps) == (Fraction(1, 255), Fraction(1, 255))
    assert (train.lr, train.lr_drops, train.batch_size) == (5e-4, (), 128)
    assert train.augmentation == Augmentation(flip=True, crop=56)
    numbers = experiments.get("table2/tinyimagenet_cnn7_bn").paper
    found = (numbers.clean_accuracy, numbers.pgd_accuracy, numbers.certified_accuracy)
    assert found == pytest.approx((0.2158, 0.1904, 0.1269)) and numbers.flops == "458M"


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"experiment 'table1/mnist'.* Did you mean 'table1/mn"):
        experiments.get("table1/mnist")
    with pytest.raises(UnknownName, match=r"scale 'papre'\. Did you mean 'paper'\? Known: smoke"):
        experiments.get_setting(NET, "papre")
    with pytest.raises(UnknownName, match=r"row of Table 1 'mnist_nte'\. Did you mean 'mnist_net'"):
        experiments.parse_rows("mnist_net,mnist_nte")


def test_parse_rows():
    assert experiments.parse_rows("mnist_net, table1/cifar10_net,") == [NET, "table1/cifar10_net"]
    assert experiments.parse_rows(["cifar10_net"]) == ["table1/cifar10_net"]
    others = [row.name for row in baselines.EXPERIMENTS]
    every = [*others, *(f"table1/{row}" for row in (*ROWS, *LSE_ROWS, *RETRAINED_ROWS))]
    assert experiments.parse_rows("all") == every == experiments.parse_rows("")
    names = [f"table2/tinyimagenet_{row}" for row in ("cnn7_bn", "net_mlp")]
    assert experiments.parse_rows("all", table=2) == names


def test_a_setting_gives_a_dist_net_or_says_what_it_has_instead():
    net = experiments.get_setting("table1/mnist_net", "paper")
    assert net.dist_net() == (net.net, net.train) and net.hinge() is net.train.loss
    baseline = experiments.get_setting("table1/mnist_ibp", "paper")
    with pytest.raises(TypeError, match=r"an l_inf-dist net.*; got BaselineConfig and BoundTrain"):
        baseline.dist_net()
    mlp = experiments.get_setting("table1/mnist_net_mlp", "paper")
    with pytest.raises(TypeError, match="a HingeLoss; got 'net_mlp' and IBPLoss"):
        mlp.hinge()
    with pytest.raises(TypeError, match="a HingeLoss; got 'net' and MixtureLoss"):
        experiments.get_setting("table1/cifar10_net_mixture", "paper").hinge()
