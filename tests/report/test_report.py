"""The tables: the paper's numbers beside the recorded ones, and never in their place."""

from dataclasses import replace
from fractions import Fraction

import pandas as pd
import pytest
from helpers import made_records

from linfdist import experiments, report
from linfdist.experiments import UnknownName, table6
from linfdist.nn import NetConfig
from linfdist.robust.losses import GatedLoss

pytestmark = pytest.mark.quick

NET = "table1/mnist_net"
ACCURACIES = ("test", "robust", "certified")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    return tmp_path


def record(folder, seed, clean, *, name=NET, scale="reduced", num_classes=10, test_images=None):
    made_records.record(
        folder,
        name,
        scale,
        seed,
        clean=clean,
        num_classes=num_classes,
        test_images=test_images,
        flops=930816,
        epochs=[{"epoch": epoch, "train_accuracy": 0.5} for epoch in (1, 2)],
        seconds=90.0 + 60 * seed,
    )


def row(table, method="ℓ∞-dist Net", dataset="MNIST"):
    (found,) = table[(table["method"] == method) & (table["data set"] == dataset)].to_dict(
        "records"
    )
    return found


def test_table1_has_the_papers_rows_in_its_order():
    table = report.table(1)
    assert table["data set"].tolist() == ["MNIST"] * 8 + ["Fashion-MNIST"] * 7 + ["CIFAR-10"] * 13
    assert table["source"].value_counts().to_dict() == {"this code": 28}
    assert table["eps"].unique().tolist() == ["0.3", "0.1", "8/255"]
    assert (table["paper test"] >= table["paper certified"]).all()
    paper = [row(table)[f"paper {name}"] for name in ACCURACIES]
    assert paper == pytest.approx([0.9854, 0.9471, 0.9264])
    assert row(table)["FLOPs"] == "82.7M"


def test_a_row_without_a_record_says_how_to_make_one():
    found = row(report.table(1))
    assert all(pd.isna(found[name]) for name in ACCURACIES)
    command = "python -m linfdist run table1/mnist_net --scale reduced --seed 0"
    assert found["status"] == f"not yet run: {command}"
    assert found["seeds"] == 0


def test_recorded_numbers_stand_in_their_own_columns(folders):
    record(folders, 0, 0.97)
    found = row(report.table(1))
    assert [found[name] for name in ACCURACIES] == [0.97, 0.8, 0.7]
    assert found["paper test"] == pytest.approx(0.9854)
    assert (found["scale"], found["seeds"], found["epochs"]) == ("reduced", 1, 2)
    assert (found["minutes"], found["run FLOPs"]) == (1.5, 930816)
    assert pd.isna(found["test sd"])
    assert found["status"] == "run on a test"
    assert row(report.table(1, "paper"))["seeds"] == 0  # another scale's record is not shown


def test_seeds_are_averaged(folders):
    record(folders, 0, 0.96)
    record(folders, 1, 0.98)
    found = row(report.table(1))
    assert found["test"] == pytest.approx(0.97)
    assert found["test sd"] == pytest.approx(0.02 / 2**0.5)
    assert found["minutes"] == 2
    text = report.text(1)
    assert "97.00 ± 1.41" in text
    assert "931k" in text


def test_the_smoke_scale_names_its_own_data(folders):
    assert row(report.table(1, "smoke"))["scale"] == "smoke (digits)"


def test_a_run_on_fewer_classes_says_so(folders):
    name = "table2/tinyimagenet_net_mlp"
    record(folders, 0, 0.5, name=name, num_classes=40)
    assert report.table(2)["scale"].iloc[-1] == "reduced (40 of 200 classes)"
    assert "reduced (40 of 200 classes)" in report.text(2)
    assert "reduced (40 of 200 classes)" in report.show(2).to_html()
    record(folders, 0, 0.5, name=name, scale="paper", num_classes=200)
    assert report.table(2, "paper")["scale"].iloc[-1] == "paper"
    record(folders, 0, 0.5, name=name, scale="smoke", num_classes=3)
    assert report.table(2, "smoke")["scale"].iloc[-1] == "smoke (digits, 3 of 10 classes)"


def test_the_scale_names_test_images_that_a_run_has_left_out(folders):
    record(folders, 0, 0.5, name="table1/mnist_colt", test_images=1000)
    record(folders, 0, 0.5)
    method = "COLT (Balunovic & Vechev, 2020)"
    assert row(report.table(1), method)["scale"] == "reduced (1,000 test images)"
    assert row(report.table(1))["scale"] == "reduced"


def test_quoted_rows_have_no_numbers_of_ours_but_a_reason(folders):
    record(folders, 0, 0.97, name="table2/tinyimagenet_net_mlp")
    quoted = report.table(2).query("source == 'quoted'")
    assert len(quoted) == 3
    assert quoted[[*ACCURACIES, "seeds", "epochs"]].isna().all(axis=None)
    assert quoted["status"].str.startswith("quoted: ").all()  # and why


def test_table1_as_text_and_as_a_notebook_shows_it(folders):
    record(folders, 0, 0.97)
    text = report.text(1)
    assert text.startswith("Table 1. Comparison with existing methods (accuracies in percent)")
    assert "98.54" in text
    assert "97.00" in text
    assert "\nℓ∞-dist Net, MNIST: run on a test\n" in text
    assert "\nℓ∞-dist Net+MLP, MNIST: not yet run: python -m linfdist run" in text
    assert "nan" not in text.lower()
    html = report.show(1).to_html()
    assert "98.54" in html
    assert "97.00" in html
    assert "nan" not in html.lower()
    assert html.count("font-weight: bold") > 0


def test_what_is_said_of_several_rows_is_said_once(folders):
    """Below the table, on one line with their names; of all rows without them."""
    record(folders, 0, 0.97)
    record(folders, 0, 0.97, name="table1/fashion_mnist_net")
    text = report.text(1)
    assert text.count(": run on a test") == 1
    assert "\nℓ∞-dist Net, MNIST; ℓ∞-dist Net, Fashion-MNIST: run on a test\n" in text
    for name in (name for name in experiments.EXPERIMENTS if name.startswith("table3/")):
        record(folders, 0, 0.5, name=name)
    assert report.text(3).endswith("\n\nAll rows: run on a test")


def test_table2_is_reported_too():
    table = report.table(2, "paper")
    models = ["CNN7+BN", "ResNeXt", "DenseNet", "WideResNet", "ℓ∞-dist Net+MLP"]
    assert [method.split(", ")[-1] for method in table["method"]] == models
    assert table["eps"].unique().tolist() == ["1/255"]
    assert "table2/tinyimagenet_net_mlp --scale paper" in table["status"].iloc[-1]
    assert table["status"].str.partition(": ")[0].tolist() == [
        *("not yet run", "quoted", "quoted", "quoted", "not yet run")
    ]
    text = report.text(2, "paper")
    assert ", WideResNet, TinyImageNet: quoted: an architecture that this code lacks" in text


def beside(table):
    """The (paper, this code) pairs of a table of settings."""
    for heading in table.columns.get_level_values(0).unique():
        yield heading, table[heading]["paper"], table[heading]["this code"]


def test_table5_equals_the_papers():
    table = report.table(5)
    assert len(table.columns) == 8
    for heading, paper, ours in beside(table):
        assert paper.drop("FLOPs").tolist() == ours.drop("FLOPs").tolist(), heading
        assert ours["FLOPs"].startswith(f"{paper['FLOPs']} ="), heading
    flops = {heading: ours["FLOPs"].partition("= ")[2] for heading, _, ours in beside(table)}
    assert list(flops.values()) == ["82,708,480", "85,283,840", "120,637,440", "123,212,800"]


def test_table6_equals_the_papers():
    table = report.table(6)
    assert len(table.columns) == 2 * len(table6.TABLE.settings) == 14
    for heading, paper, ours in beside(table):
        assert paper.tolist() == ours.tolist(), heading


def test_a_smoothing_of_our_own_is_said():
    assert "Smoothing" not in report.hyper_parameters(experiments.get_setting(NET, "paper").train)
    said = report.hyper_parameters(experiments.get_setting(f"{NET}_lse", "paper").train)
    assert said["Smoothing"] == "ℓp for e1 epochs, then LogSumExp, matched to p"
    assert (said["Relaxation"], said["p_rise"], said["p_end"]) == ("2", "20", "60")


def test_a_study_has_a_row_for_each_experiment(folders):
    rows = [experiments.get(NET), experiments.get(f"{NET}_lse")]
    record(folders, 0, 0.96)
    record(folders, 1, 0.98)
    table = report.study(rows)
    assert table["training"].tolist() == ["ℓ∞-dist Net", "ℓ∞-dist Net, LogSumExp"]
    assert table["seeds"].tolist() == [2, 0]
    assert table["test"][0] == pytest.approx(0.97)
    assert table["test sd"][0] == pytest.approx(0.02 / 2**0.5)
    assert pd.isna(table["test"][1])
    assert table["command"][1].endswith("run table1/mnist_net_lse --scale reduced --seed 0")
    shown = report.show_study(rows).to_html()
    assert "97.00 ± 1.41" in shown and "LogSumExp" not in shown


def test_settings_of_other_losses_have_their_own_numbers():
    train = experiments.get_setting("table1/cifar10_net_mixture", "reduced").train
    said = report.hyper_parameters(train)
    assert (said["t"], said["ε_train"], said["κ"]) == ("48/255", "", "")
    assert (said["λ"], said["s"]) == (
        "1, then 0.1 → 0.0005",
        "from 4, at 0.5 of the learning rate",
    )
    assert said["Weight decay"] == "none"
    gated = GatedLoss(eps_train=Fraction(1, 10), weights=(1.0, 0.5, 0.02))
    said = report.hyper_parameters(replace(train, loss=gated, lr_schedule="cosine"))
    assert (said["ε_train"], said["t"], said["λ"]) == ("0.1", "", "1, then 0.5 → 0.02")
    assert said["Learning rate"] == "0.02, a half cosine from the start" and "s" not in said


def test_settings_follow_the_code_and_not_the_print():
    train = experiments.get_setting(NET, "paper").train
    changed = report.hyper_parameters(replace(train, lr=0.5, epochs=(1, 2, 3)))
    assert (changed["Learning rate"], changed["Total epochs"]) == ("0.5", "6")
    net = experiments.get_setting("table1/cifar10_net_mlp", "reduced").net
    assert report.layers(replace(net, hidden=(7, 8)), 10) == [
        "ℓ∞-dist(7)+Norm",
        "ℓ∞-dist(8)+Norm",
        "FC(512)+Tanh",
        "FC(10)",
    ]


def test_convolutions_are_listed_in_table8s_words():
    channels = ((128, 1), (128, 1), (256, 2), (256, 1), (256, 1))
    net = NetConfig(kind="conv_net_mlp", hidden=(512,), mlp_hidden=512, channels=channels)
    assert report.layers(net, 10, in_channels=3) == [
        "ℓ∞-dist-conv(3, 128, kernel=3)+Norm",
        "ℓ∞-dist-conv(128, 128, kernel=3)+Norm",
        "ℓ∞-dist-conv(128, 256, kernel=3, stride=2)+Norm",
        "ℓ∞-dist-conv(256, 256, kernel=3)+Norm",
        "ℓ∞-dist-conv(256, 256, kernel=3)+Norm",
        "ℓ∞-dist(512)+Norm",
        "FC(512)+Tanh",
        "FC(10)",
    ]
    with pytest.raises(
        ValueError, match=r"in_channels must be .* got None\. Pass info\.input_shape"
    ):
        report.layers(net, 10)


@pytest.mark.parametrize("number", [5, 6])
def test_tables_of_settings_are_shown(number):
    assert report.text(number).startswith(f"Table {number}.")
    assert "this code" in report.show(number).to_html()


def test_unknown_tables_and_scales_are_refused():
    with pytest.raises(UnknownName, match=r"Unknown table '70'\. Did you mean '7'\?"):
        report.table(70)
    with pytest.raises(UnknownName, match="Unknown scale 'small'"):
        report.table(1, "small")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(8, 255), "8/255"),
        (Fraction(88, 2550), "8.8/255"),
        (Fraction(80, 255), "80/255"),
        (Fraction(35, 100), "0.35"),
        (Fraction(5, 1000), "0.005"),
    ],
)
def test_format_pixels(value, text):
    assert report.format_pixels(value) == text


@pytest.mark.parametrize(
    ("flops", "text"),
    [
        (82_708_480, "82.7M"),
        (120_637_440, "121M"),
        (5_220_000_000, "5.22G"),
        (410_000, "410k"),
        (999_999, "1.00M"),
        (7232, "7.23k"),
        (512, "512"),
    ],
)
def test_format_flops(flops, text):
    assert report.format_flops(flops) == text
