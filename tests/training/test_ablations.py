"""Tables 3, 7, 8 and 9: settings that differ in what the table says, and the paper's numbers."""

import math
from dataclasses import replace
from fractions import Fraction

import pandas as pd
import pytest
import torch

from linfdist import data, experiments, report
from linfdist.evaluation import evaluate
from linfdist.experiments import runner, table1, table3, table7, table8, table9
from linfdist.nn import flop_count
from linfdist.robust import HingeLoss, IBPLoss
from linfdist.training import fit

SCALES = tuple(experiments.SCALES)
NETS = ("net", "net_mlp")

# Table 3, typed from the paper a second time: test, robust and certified of Net, then of Net+MLP.
TABLE3 = """
a 28.21  8.42  7.02 37.68 28.72 27.76
b 55.63 35.28 32.56 37.61 30.99 29.71
c 56.15 35.96 32.71 48.97 36.21 35.02
d 53.64 32.12 29.01 45.34 33.48 32.49
e 56.80 37.46 33.30 50.80 37.06 35.42
"""
# Table 7: train and test from a Gaussian start, then from the identity map.
TABLE7 = """
 5 63.01 55.76 65.93 56.56
 6 63.46 55.85 65.51 56.80
 7 63.82 56.77 66.58 57.06
 8 63.46 56.72 67.11 56.64
 9 61.57 55.94 67.52 57.01
10 58.72 55.04 68.84 57.18
"""


def lines(text):
    for line in text.strip().splitlines():
        first, *numbers = line.split()
        yield first, [pytest.approx(float(number) / 100) for number in numbers]


def settings(names, scale):
    return [experiments.get_setting(name, scale) for name in names]


def test_table3_has_the_papers_numbers():
    for letter, numbers in lines(TABLE3):
        for kind, printed_ones in zip(NETS, (numbers[:3], numbers[3:]), strict=True):
            paper = experiments.get(f"table3/{letter}_{kind}").paper
            found = [paper.clean_accuracy, paper.pgd_accuracy, paper.certified_accuracy]
            assert found == printed_ones
            assert (paper.train_accuracy, paper.flops) == (None, "")
    assert len(table3.TABLE.rows) == 10


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("scale", SCALES)
def test_rows_of_table3_differ_in_their_switches_alone(kind, scale):
    a, b, c, d, e = settings([f"table3/{letter}_{kind}" for letter in "abcde"], scale)
    assert e.train.decay == "lp" and e.train.p_start == 8 and e.net.identity_value is not None
    assert d == replace(e, train=replace(e.train, decay="l2"))
    assert c == replace(e, train=replace(e.train, decay="none"))
    assert b == replace(c, net=replace(c.net, identity_value=None))
    assert a == replace(b, train=replace(b.train, p_start=math.inf))


@pytest.mark.parametrize("kind", NETS)
def test_the_last_row_of_table3_is_table1s(kind):
    ours, table = experiments.get(f"table3/e_{kind}"), experiments.get(f"table1/cifar10_{kind}")
    assert ours.scales["paper"] == table.scales["paper"]
    assert replace(ours.paper, flops=table.paper.flops) == table.paper
    reduced, of_table1 = ours.scales["reduced"], table.scales["reduced"]
    images, epochs = reduced.train.train_images, reduced.train.epochs
    assert reduced.train == replace(of_table1.train, train_images=images, epochs=epochs)
    steps = [images // reduced.train.batch_size * phase for phase in epochs]
    assert steps == [480 if kind == "net" else 1920, 480, 160]
    assert len(reduced.net.hidden) == len(table.scales["paper"].net.hidden)


def test_table3_says_what_its_rows_switch_on():
    for experiment in table3.TABLE.rows:
        said, setting = experiment.switches, experiment.scales["paper"]
        assert experiment.name.startswith(f"table3/{said['row'].lower()}_net")
        assert (said["smoothed gradient"] == "yes") == (setting.train.p_start == 8)
        assert (said["identity init"] == "yes") == (setting.net.identity_value == -10)
        assert said["weight decay"] == {"none": "no", "l2": "ℓ2", "lp": "ℓp"}[setting.train.decay]
        assert setting.train.weight_decay == 0.005


def test_table7_has_the_papers_numbers():
    for layers, numbers in lines(TABLE7):
        for start, (train, test) in zip(
            ("gaussian", "identity"), (numbers[:2], numbers[2:]), strict=True
        ):
            paper = experiments.get(f"table7/{start}_{layers}").paper
            assert (paper.train_accuracy, paper.clean_accuracy) == (train, test)
            assert paper.pgd_accuracy is None and paper.certified_accuracy is None
    assert len(table7.TABLE.rows) == 12


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("layers", range(5, 11))
def test_rows_of_table7_differ_in_start_and_depth_alone(scale, layers):
    gaussian, identity, six = settings(
        (f"table7/gaussian_{layers}", f"table7/identity_{layers}", "table7/identity_6"), scale
    )
    assert gaussian == replace(identity, net=replace(identity.net, identity_value=None))
    assert identity.net.identity_value is not None
    (width,) = {*identity.net.hidden}
    assert len(identity.net.hidden) == layers - 1  # the last layer, of the classes, is one more
    assert identity == replace(six, net=replace(six.net, hidden=(width,) * (layers - 1)))


def test_six_layers_from_the_identity_map_are_table1s_net():
    ours = experiments.get("table7/identity_6").scales
    assert ours["paper"] == experiments.get_setting("table1/cifar10_net", "paper")
    assert ours["reduced"] == experiments.get_setting("table3/e_net", "reduced")


def test_comparisons_are_of_rows_that_differ_as_they_say():
    for comparison in table3.TABLE.comparisons:
        before, after = comparison.before.switches["row"], comparison.after.switches["row"]
        assert comparison.title.endswith(f": {after} − {before}")
        assert comparison.before.title == comparison.after.title
    assert len(table3.TABLE.comparisons) == 2 * 4 and len(table7.TABLE.comparisons) == 2 + 6
    gaussian, identity, *starts = table7.TABLE.comparisons
    for comparison in starts:
        before, after = comparison.before.switches, comparison.after.switches
        assert before | {"initialisation": "identity map"} == after
    for comparison, start in ((gaussian, "Gaussian"), (identity, "identity map")):
        seven, ten = comparison.before.switches, comparison.after.switches
        assert seven == {"initialisation": start, "layers": "7"}
        assert ten == {"initialisation": start, "layers": "10"}


def test_the_convolutional_net_is_table_8s_and_trained_as_net_mlp():
    (experiment,) = table9.TABLE.rows
    paper, fully = (
        experiment.scales["paper"],
        experiments.get_setting("table1/cifar10_net_mlp", "paper"),
    )
    assert replace(paper, net=fully.net) == fully
    assert paper.net.identity_value == -10
    reduced = experiment.scales["reduced"]
    assert len(reduced.net.channels) == len(paper.net.channels) == 5
    info = data.DATASETS["cifar10"]
    with torch.device("meta"):
        net = runner.build(paper, info, seed=0)
    assert flop_count(net, info.input_shape) == 565_842_944
    numbers = experiment.paper
    found = (numbers.clean_accuracy, numbers.pgd_accuracy, numbers.certified_accuracy)
    assert found == pytest.approx((0.4917, 0.3723, 0.3430))
    assert numbers.flops == "566M"


def test_table9_has_the_rows_of_table1_that_the_paper_prints_again():
    shown = report.table(9).set_index("method")
    titles = [title.partition(" (")[0] for title in shown.index]
    assert titles == ["PVT", "DiffAI", "COLT", "IBP", "CROWN-IBP", table9.CONV_NET_MLP]
    first = report.table(1).query("`data set` == 'CIFAR-10'").set_index("method")
    again = [row.title for row in table9.TABLE.repeated]
    pd.testing.assert_frame_equal(shown.loc[again, first.columns], first.loc[again])


def test_the_convolutional_net_learns_and_is_certified_on_the_digits():
    """Its interval path, convolutions and all, against the classes that a run finds."""
    setting = experiments.get_setting("table9/cifar10_conv_net_mlp", "smoke")
    train, test = data.load("digits", "train"), data.load("digits", "test")
    net = runner.build(setting, train.info, seed=0)
    fit(net, train, setting.train, seed=0, progress=False)
    metrics, images = evaluate(net, test, setting.eps, progress=False)
    assert metrics["clean_accuracy"] > 0.6 and metrics["certified_accuracy"] > 0.4
    assert (images["certified_interval"] <= images["survived_pgd"]).all()
    # No point of the box gets away from the bounds: its corners' margins are below them.
    pixels, labels = data.to_pixels(test.images[:64]), test.labels[:64]
    eps = float(setting.eps)
    box = (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)
    with torch.no_grad():
        bounds = net.worst_case_margins_on_box(*box, labels)
        for seed in range(8):
            corner = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
            logits = net(torch.where(corner, *box))
            margins = logits - logits.gather(1, labels.unsqueeze(1))
            assert (margins <= bounds + 1e-5).all()


@pytest.mark.parametrize("kind", NETS)
def test_training_at_infinity_from_the_first_step(kind):
    """The warm-up of eps and the fall of the rate are as with smoothing; p is not."""
    setting = experiments.get_setting(f"table3/a_{kind}", "smoke")
    train = data.load("digits", "train")
    net = runner.build(setting, train.info, seed=0)
    before = [parameter.clone() for parameter in net.parameters()]
    rows = fit(net, train, setting.train, seed=0, progress=False)
    assert [row["p"] for row in rows] == [math.inf] * 4
    assert [row["lr"] < setting.train.lr for row in rows] == [False, True, True, True]
    assert rows[-1]["train_accuracy"] > rows[0]["train_accuracy"] + 0.1
    after = net.parameters()
    assert all((old != new).any() for old, new in zip(before, after, strict=True))


def test_the_losses_are_table1s():
    for experiment in (*table3.TABLE.rows, *table7.TABLE.rows):
        loss = experiment.scales["paper"].train.loss
        if experiment.title == table1.NET:
            assert loss == HingeLoss(threshold=Fraction(80, 255))
        else:
            assert loss == IBPLoss(eps_train=Fraction("8.8") / 255, kappa=0)


def test_table8_is_keyed_by_the_experiment():
    assert list(table8.TABLE.layers) == [experiment.name for experiment in table9.TABLE.rows]
