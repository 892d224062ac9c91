"""Training: what a run does, that it can be killed anywhere, and what it refuses."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from linfdist import checkpoint as checkpoints
from linfdist import training
from linfdist.checkpoint import CheckpointError
from linfdist.data import Augmentation, DatasetInfo, ImageSet
from linfdist.nn import LpDist, MeanShift, NetConfig, build_net
from linfdist.training import HingeLoss, IBPLoss, TrainConfig, fit

INFO = DatasetInfo(
    name="dots",
    title="Dots",
    input_shape=(1, 6, 6),
    num_classes=3,
    mean=(0.3,),
    std=0.4,
    eps=Fraction(1, 10),
)
HINGE = HingeLoss(threshold=Fraction(3, 10), mix=0.75)
IBP = IBPLoss(eps_train=Fraction(1, 10), kappa=0.5)
CONFIG = TrainConfig(
    epochs=(2, 2, 1), batch_size=16, loss=HINGE, augmentation=Augmentation(padding=1, flip=True)
)
NET = NetConfig(kind="net", hidden=(12, 12))
MLP = NetConfig(kind="net_mlp", hidden=(12, 12), mlp_hidden=6)
KINDS = pytest.mark.parametrize(
    ("net_config", "config"), [(NET, CONFIG), (MLP, replace(CONFIG, loss=IBP))], ids=["net", "mlp"]
)


def dots(n=56, seed=0, info=INFO):
    """Images whose class is the third of the rows that is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    images = torch.randint(0, 60, (n, *info.input_shape), generator=generator)
    rows = torch.arange(6)[None, None, :, None] // 2
    images = images + 180 * (rows == labels[:, None, None, None])
    return ImageSet(images.to(torch.uint8), labels, info)


TRAIN, TEST = dots(), dots(24, seed=1)


def fresh(config=NET, seed=0, info=INFO):
    torch.manual_seed(seed)
    return build_net(
        config, input_shape=info.input_shape, num_classes=3, mean=info.mean, std=info.std
    )


def same(first, second):
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def timeless(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@KINDS
def test_a_run_learns_and_reports_every_epoch(net_config, config):
    net = fresh(net_config)
    config = replace(config, epochs=(10, 10, 2), augmentation=Augmentation())
    rows = fit(net, TRAIN, config, seed=0, test=TEST)
    assert [row["epoch"] for row in rows] == list(range(1, 23))
    names = "epoch p lr eps_train train_loss train_accuracy test_accuracy seconds"
    assert all(list(row) == names.split() for row in rows)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["test_accuracy"] > 0.8 and rows[-1]["train_accuracy"] > 0.8
    assert not net.training


def test_the_schedules_are_the_paper_s():
    rows = fit(fresh(MLP), TRAIN, replace(CONFIG, loss=IBP), seed=0)
    # 4 steps an epoch; a row holds the values of its epoch's last step.
    progress = [0.75, 1.75, 2.75, 3.75, 4.75]
    rise = [8 * 125 ** ((t - 2) / 2) for t in progress[2:4]]
    assert [row["p"] for row in rows] == pytest.approx([8, 8, *rise, math.inf])
    cosine = [0.01 * (1 + math.cos(math.pi * (t - 2) / 3)) for t in progress[2:]]
    assert [row["lr"] for row in rows] == pytest.approx([0.02, 0.02, *cosine])
    assert [row["eps_train"] for row in rows] == pytest.approx([0.0375, 0.0875, 0.1, 0.1, 0.1])
    assert all(row["test_accuracy"] is None for row in rows)
    hinge = fit(fresh(), TRAIN, CONFIG, seed=0)
    assert all(row["eps_train"] is None for row in hinge)


def test_the_threshold_is_in_pixels(monkeypatch):
    seen = []

    def hinge(logits, labels, threshold, mix):
        seen.append((threshold, mix))
        return logits.sum()

    monkeypatch.setattr(training, "hinge_loss", hinge)
    fit(fresh(), TRAIN, CONFIG, seed=0, stop_after_steps=1)
    assert seen == [(pytest.approx(0.3 / 0.4), 0.75)]


def test_the_mean_shifts_and_every_parameter_move():
    net, start = fresh(), fresh()
    fit(net, TRAIN, CONFIG, seed=0)
    for name, value in net.state_dict().items():
        assert not torch.equal(value, start.state_dict()[name]), name
    assert sum(isinstance(module, MeanShift) for module in net.modules()) == 2


def test_every_image_is_seen_once_an_epoch_the_incomplete_batch_too():
    config = replace(CONFIG, augmentation=Augmentation())
    run = training._Run(fresh(), TRAIN, config, 0, None, "cpu", "")
    orders = []
    for epoch in range(2):
        batches = [run.batch(epoch, index) for index in range(run.steps_per_epoch)]
        assert [len(labels) for _, labels in batches] == [16, 16, 16, 8]
        orders.append(torch.cat([pixels for pixels, _ in batches]))
    assert not torch.equal(*orders)
    whole = sorted(image.sum().item() for image in TRAIN.images.double() / 255)
    for order in orders:
        assert sorted(image.double().sum().item() for image in order) == pytest.approx(whole)


def test_batches_depend_on_seed_epoch_and_index_alone():
    def run(seed):
        return training._Run(fresh(), TRAIN, CONFIG, seed, None, "cpu", "")

    first, second = run(0), run(0)
    expected = [first.batch(epoch, index)[0] for epoch in range(2) for index in range(4)]
    for epoch, index in [(1, 2), (0, 3), (1, 0), (0, 0)]:  # any order
        torch.rand(3)  # and whatever the global generator does
        assert torch.equal(second.batch(epoch, index)[0], expected[4 * epoch + index])
    assert not torch.equal(run(1).batch(0, 0)[0], expected[0])


def test_train_images_takes_the_first_ones():
    few, same_few = fresh(), fresh()
    fit(few, TRAIN, replace(CONFIG, train_images=20), seed=0)
    fit(same_few, TRAIN.take(20), CONFIG, seed=0)
    assert same(few, same_few)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    nets = [fresh() for _ in range(3)]
    seeds = (0, 0, 1)
    rows = [fit(nets[i], TRAIN, CONFIG, seed=seed, test=TEST) for i, seed in enumerate(seeds)]
    assert same(nets[0], nets[1]) and timeless(rows[0]) == timeless(rows[1])
    assert not same(nets[0], nets[2])


def optimizer_state(path):
    return torch.load(path, weights_only=True)["state"]["optimizer"]["state"]


@KINDS
@pytest.mark.parametrize("after", [1, 4, 7, 19])
def test_stopped_anywhere_and_resumed_is_bit_equal(tmp_path, net_config, config, after):
    whole, parts = fresh(net_config), fresh(net_config)
    settings = {"seed": 3, "test": TEST, "experiment": "x"}
    expected = fit(whole, TRAIN, config, checkpoint=tmp_path / "whole", **settings)
    path = tmp_path / "parts"
    first = fit(parts, TRAIN, config, checkpoint=path, stop_after_steps=after, **settings)
    assert len(first) == after // 4
    again = fresh(net_config)
    rows = fit(again, TRAIN, config, checkpoint=path, **settings)
    assert same(whole, again) and timeless(rows) == timeless(expected)
    states = optimizer_state(tmp_path / "whole"), optimizer_state(path)
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(states[0][key][name], states[1][key][name])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["backward", "optimizer", "save", "evaluation"])
def test_killed_inside_a_step_and_resumed_is_bit_equal(tmp_path, monkeypatch, where):
    """Dies half-way through something, many times, with whatever was saved before."""
    whole = fresh()
    expected = fit(whole, TRAIN, CONFIG, seed=0, test=TEST)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)  # after every step
    owner, name = {
        "backward": (torch.Tensor, "backward"),
        "optimizer": (training.LpAdamW, "step"),
        "save": (checkpoints.os, "fsync"),
        "evaluation": (training, "accuracy"),
    }[where]
    real = getattr(owner, name)
    calls = {"left": 0}

    def dying(*args, **kwargs):
        calls["left"] -= 1
        result = real(*args, **kwargs)  # the deed is done, but nobody learns of it
        if calls["left"] == 0:
            raise Killed
        return result

    deaths = 0
    monkeypatch.setattr(owner, name, dying)
    while True:
        calls["left"] = 3 if where != "evaluation" else 2
        net = fresh()
        try:
            rows = fit(net, TRAIN, CONFIG, seed=0, test=TEST, checkpoint=tmp_path / "c")
        except Killed:
            deaths += 1
            continue
        break
    assert deaths >= 2
    assert same(net, whole) and timeless(rows) == timeless(expected)


LONG = replace(CONFIG, epochs=(20, 40, 10))


def run_and_wait_for_the_end(path):
    """What the process that is killed runs."""
    training.CHECKPOINT_SECONDS = 0.0
    torch.set_num_threads(1)
    fit(fresh(), TRAIN, LONG, seed=0, checkpoint=Path(path))


def test_a_process_that_is_really_killed_is_resumed_bit_equal(tmp_path):
    path = tmp_path / "checkpoint"
    program = f"import test_training; test_training.run_and_wait_for_the_end({str(path)!r})"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parent)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < torch.load(path, weights_only=True)["state"]["step"] < 280

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, resumed = fresh(), fresh()
        expected = fit(whole, TRAIN, LONG, seed=0)
        rows = fit(resumed, TRAIN, LONG, seed=0, checkpoint=path)
    finally:
        torch.set_num_threads(threads)
    assert same(whole, resumed) and timeless(rows) == timeless(expected)


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    net = fresh()
    expected = fit(net, TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c")
    monkeypatch.setattr(training._Run, "train_step", None)
    again = fresh()
    assert fit(again, TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c") == expected
    assert same(net, again)


def test_checkpoints_come_with_each_epoch_and_with_time(tmp_path, monkeypatch):
    steps = []
    real = checkpoints.save

    def save(path, fingerprint, state):
        steps.append(state["step"])
        real(path, fingerprint, state)

    monkeypatch.setattr(checkpoints, "save", save)
    fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "a")
    assert steps == [4, 8, 12, 16, 20]
    steps.clear()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "b")
    assert steps == list(range(1, 21))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"experiment": "y"}, "experiment: 'x' there, 'y' here"),
        ({"config": replace(CONFIG, lr=0.03)}, "train.lr: 0.02 there, 0.03 here"),
        ({"train": TRAIN.take(40)}, "data.images: 56 there, 40 here"),
        ({"net": NetConfig(kind="net", hidden=(12, 13))}, "net.hidden"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path, change, message):
    base = {"net": NET, "train": TRAIN, "config": CONFIG, "seed": 0, "experiment": "x"}

    def start(net, train, config, **rest):
        return fit(fresh(net), train, config, checkpoint=tmp_path / "c", stop_after_steps=1, **rest)

    start(**base)
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        start(**{**base, **change})
    assert (tmp_path / "c").read_bytes() == before


def test_a_corrupt_checkpoint_is_named_and_restart_throws_it_away(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
        fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=path)
    net, expected = fresh(), fresh()
    fit(net, TRAIN, CONFIG, seed=0, checkpoint=path, restart=True)
    fit(expected, TRAIN, CONFIG, seed=0)
    assert same(net, expected)


def test_a_loss_that_is_not_finite_names_step_p_and_lr(tmp_path, monkeypatch):
    real = training.hinge_loss
    count = iter(range(100))

    def hinge(*args):
        return real(*args) * (math.nan if next(count) == 9 else 1)

    monkeypatch.setattr(training, "hinge_loss", hinge)
    with pytest.raises(
        FloatingPointError, match=r"got nan at step 9 \(epoch 3, p=14\.6\d*, lr=0\.019"
    ):
        fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c")
    state = torch.load(tmp_path / "c", weights_only=True)["state"]
    assert state["step"] == 8
    assert all(value.isfinite().all() for value in state["net"].values())


@pytest.mark.parametrize("decay", ["lp", "l2", "none"])
def test_the_ablations_train(decay):
    config = replace(CONFIG, decay=decay, p_start=math.inf)
    rows = fit(fresh(replace(NET, identity_value=None)), TRAIN, config, seed=0)
    assert all(row["p"] == math.inf for row in rows)


def test_random_crops_bring_larger_images_to_the_network():
    large = replace(INFO, input_shape=(1, 6, 8))
    train = ImageSet(torch.zeros(8, 1, 9, 9, dtype=torch.uint8), torch.zeros(8).long(), large)
    config = replace(CONFIG, augmentation=Augmentation(crop=6))
    fit(fresh(), train, config, seed=0, stop_after_steps=1)
    with pytest.raises(ValueError, match=r"training images .*input_shape=\(1, 6, 6\); got \(1, 9"):
        fit(fresh(), train, CONFIG, seed=0)


def test_the_bar_shows_epoch_loss_p_and_accuracy(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fit(fresh(), TRAIN, CONFIG, seed=0)
    shown = capsys.readouterr().err
    assert "20/20" in shown
    for part in ("epoch 5/5, loss ", "p inf, accuracy "):
        assert part in shown
    fit(fresh(), TRAIN, CONFIG, seed=0, progress=False)
    assert capsys.readouterr().err == ""


def test_errors_name_the_value_and_the_fix():
    with pytest.raises(TypeError, match="HingeLoss must train a LinfDistNet; got LinfDistNetMLP"):
        fit(fresh(MLP), TRAIN, CONFIG, seed=0)
    with pytest.raises(TypeError, match="IBPLoss must train a LinfDistNetMLP; got LinfDistNet"):
        fit(fresh(), TRAIN, replace(CONFIG, loss=IBP), seed=0)
    with pytest.raises(ValueError, match=r"train_images must be at most 56.*got 57"):
        fit(fresh(), TRAIN, replace(CONFIG, train_images=57), seed=0)
    with pytest.raises(ValueError, match="train must hold at least one image"):
        fit(fresh(), ImageSet(TRAIN.images[:0], TRAIN.labels[:0], INFO), CONFIG, seed=0)
    ten = ImageSet(TRAIN.images, TRAIN.labels + 5, replace(INFO, num_classes=10))
    for sets in ({"train": ten}, {"train": TRAIN, "test": ten}):
        with pytest.raises(ValueError, match=r"labels must be in 0\.\.2.*got [567]"):
            fit(fresh(), config=CONFIG, seed=0, **sets)
    wide = ImageSet(TRAIN.images[..., :5], TRAIN.labels, INFO)
    with pytest.raises(ValueError, match=r"test images .*got \(1, 6, 5\)"):
        fit(fresh(), TRAIN, CONFIG, seed=0, test=wide)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": (0, 0, 0)}, r"not all 0; got \(0, 0, 0\)"),
        ({"epochs": (1, -1, 1)}, r"of at least 0.*got \(1, -1, 1\)"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"p_start": 0.5}, r"p_start must be in \[1, inf\].*got 0.5"),
        ({"p_end": math.inf}, "p_end finite.*got 8.0 and inf"),
        ({"p_end": 4.0}, "p_end must be at least p_start=8.0; got 4.0"),
        ({"decay": "l1"}, "decay must be one of lp, l2, none; got 'l1'"),
    ],
)
def test_config_errors(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_defaults_are_table_6():
    config = TrainConfig(epochs=(50, 300, 50), loss=HingeLoss(threshold=Fraction(9, 10)))
    found = (config.batch_size, config.lr, config.betas, config.adam_eps, config.weight_decay)
    assert found == (512, 0.02, (0.9, 0.99), 1e-10, 0.005)
    assert (config.p_start, config.p_end, config.decay) == (8, 1000, "lp")
    assert config.loss.mix == 1.0
    assert isinstance(fresh().last, LpDist)
