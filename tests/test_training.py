"""Training: what a run does, what its rows say, and what it refuses."""

import math
import re
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from dots import CONFIG, IBP, INFO, KINDS, MLP, NET, SMOOTHINGS, TEST, TRAIN, fresh, same, timeless
from torch.utils._python_dispatch import TorchDispatchMode

from linfdist import recipe, training
from linfdist.data import Augmentation, ImageSet
from linfdist.nn import LpDist, MeanShift
from linfdist.train_run import Run
from linfdist.training import HingeLoss, TrainConfig, fit


@KINDS
def test_a_run_learns_and_reports_every_epoch(net_config, config):
    net = fresh(net_config)
    config = replace(config, epochs=(10, 10, 2), augmentation=Augmentation())
    rows = fit(net, TRAIN, config, seed=0, test=TEST)
    assert [row["epoch"] for row in rows] == list(range(1, 23))
    names = "epoch p lr eps_train train_loss train_accuracy test_accuracy test_certified seconds"
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

    monkeypatch.setattr(recipe, "hinge_loss", hinge)
    fit(fresh(), TRAIN, CONFIG, seed=0, stop_after_steps=1)
    assert seen == [(pytest.approx(0.3 / 0.4), 0.75)]


@KINDS
def test_relaxation_divides_the_radius_of_the_loss(net_config, config, monkeypatch):
    """By 16, then by 16 and by 4 in the epoch of two steps in which p rises, then by 1."""
    config = replace(
        config, epochs=(1, 1, 1), batch_size=len(TRAIN) // 2, smoothing="matched_lse", p_end=60.0
    )

    def radii(relaxation):
        seen = []
        changed = replace(config, relaxation=relaxation)
        run = Run(fresh(net_config), TRAIN, changed, 0, None, "cpu", "")
        forward = run.objective.forward
        monkeypatch.setattr(
            run.objective, "forward", lambda *args: (seen.append(args[3]), forward(*args))[1]
        )
        for _ in range(6):
            run.train_step()
        return seen

    whole, factors = radii(1.0), [1 / 16, 1 / 16, 1 / 16, 1 / 4, 1, 1]
    assert radii(16.0) == pytest.approx([r * f for r, f in zip(whole, factors, strict=True)])
    assert whole[-1] > 0


def test_lp_then_lse_is_one_and_then_the_other(monkeypatch):
    config = replace(
        CONFIG, smoothing="lp_then_lse", p_rise=20.0, p_end=60.0, relaxation=4.0, batch_size=28
    )
    run = Run(fresh(), TRAIN, config, 0, None, "cpu", "")
    seen, forward = [], run.objective.forward
    monkeypatch.setattr(
        run.objective, "forward", lambda *args: (seen.append(args[2:]), forward(*args))[1]
    )
    for _ in range(10):
        run.train_step()
    threshold = float(CONFIG.loss.threshold)
    assert seen[:5] == [(8.0, threshold)] * 5  # the fifth is where the rise begins
    rising = [20 * 3 ** (step / 4) for step in (1, 2, 3)]
    assert [smoothing.t for smoothing, _ in seen[5:8]] == pytest.approx([p - 1 for p in rising])
    assert all(smoothing.matched for smoothing, _ in seen[5:8])
    assert [radius for _, radius in seen[5:8]] == pytest.approx(
        [threshold * 4 ** (step / 4 - 1) for step in (1, 2, 3)]
    )
    assert seen[8:] == [(math.inf, threshold)] * 2


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_have_their_precision_in_a_step_alone(precision, monkeypatch):
    before = torch.get_float32_matmul_precision()
    config = replace(CONFIG, smoothing="lse", matmul_precision=precision)
    run = Run(fresh(), TRAIN, config, 0, TEST, "cpu", "")
    seen = []

    def during(name):
        real = getattr(torch.Tensor, name)
        record = lambda *args, **kwargs: (  # noqa: E731
            seen.append(torch.get_float32_matmul_precision()),
            real(*args, **kwargs),
        )[1]
        monkeypatch.setattr(torch.Tensor, name, record)

    during("backward")
    run.train_step()
    assert seen == [precision]
    assert torch.get_float32_matmul_precision() == before
    run.batches = None
    with pytest.raises(AttributeError):
        run.train_step()
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("smoothing", ["lp", "lse", "matched_lse"])
@KINDS
def test_what_is_certified_is_told_where_layers_are_lipschitz(net_config, config, smoothing):
    config = replace(config, smoothing=smoothing, p_end=60.0, epochs=(6, 4, 2), lr=0.05)
    rows = fit(fresh(net_config), TRAIN, config, seed=0, test=TEST)
    certified = [row["test_certified"] for row in rows]
    assert all(0 < row["test_certified"] <= row["test_accuracy"] for row in rows[-2:])
    assert all((share is None) == (smoothing == "lp") for share in certified[:-2])


def test_the_mean_shifts_and_every_parameter_move():
    net, start = fresh(), fresh()
    fit(net, TRAIN, CONFIG, seed=0)
    for name, value in net.state_dict().items():
        constant = "normalize" in name
        assert torch.equal(value, start.state_dict()[name]) == constant, name
    assert sum(isinstance(module, MeanShift) for module in net.modules()) == 2


class NothingIsAsked(TorchDispatchMode):
    """Refuses what makes the host wait for the values of a device: test_training_gpu.py asks it.

    The optimizer's own count of its steps may be read: it lies on the host for every device.
    """

    ASKING = frozenset({"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"})

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        counts = [state.get("step") for state in self.optimizer.state.values()]
        assert name not in self.ASKING or any(args[0] is count for count in counts)
        assert all(index is None or index.dtype != torch.bool for index in indices)
        return function(*args, **(kwargs or {}))


@KINDS
@pytest.mark.parametrize("p_start", [8.0, math.inf])
def test_no_step_asks_for_a_value(net_config, config, p_start):
    run = Run(fresh(net_config), TRAIN, replace(config, p_start=p_start), 0, None, "cpu", "")
    with NothingIsAsked(run.optimizer):
        for _ in range(2 * run.steps_per_epoch):
            run.train_step()
        with pytest.raises(AssertionError):
            run.loss_sum.item()


@SMOOTHINGS
@KINDS
def test_smoothed_training_learns(net_config, config, smoothing):
    p_start, p_end = (1.0, 5.0) if smoothing == "lse" else (8.0, 60.0)
    config = replace(
        config, smoothing=smoothing, p_start=p_start, p_end=p_end, epochs=(4, 8, 4), lr=0.05
    )
    rows = fit(fresh(net_config), TRAIN, config, seed=0, test=TEST)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["test_accuracy"] > 0.7


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


def test_a_loss_that_is_not_finite_names_step_p_and_lr(tmp_path, monkeypatch):
    real = recipe.hinge_loss
    count = iter(range(100))

    def hinge(*args):
        return real(*args) * (math.nan if next(count) == 9 else 1)

    monkeypatch.setattr(recipe, "hinge_loss", hinge)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)  # after every step
    with pytest.raises(
        FloatingPointError, match=r"got nan at step 9 \(epoch 3, p=14\.6\d*, lr=0\.019"
    ):
        fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c")
    state = torch.load(tmp_path / "c", weights_only=True)["state"]
    assert state["step"] == 9
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
        (
            {"smoothing": "max"},
            "smoothing must be one of lp, lse, matched_lse, lp_then_lse; got 'max'",
        ),
        ({"matmul_precision": "bf16"}, "must be one of highest, high, medium; got 'bf16'"),
        ({"smoothing": "lp_then_lse"}, "p_rise must be given for .*and p_rise=None"),
        ({"p_rise": 20.0}, "and for no other; got smoothing='lp' and p_rise=20.0"),
        (
            {"smoothing": "lp_then_lse", "p_rise": 8.0},
            "p_rise must be above p_start and at most p_end.* 8.0 and 1000.0; got 8.0",
        ),
        ({"relaxation": 0.5}, r"relaxation must be in \[1, inf\), 1 for none; got 0.5"),
        ({"relaxation": math.inf}, "relaxation must be in"),
        ({"smoothing": "matched_lse", "p_start": 1.0}, "p_start must be above 1 for smoothing="),
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


def test_a_log_gets_a_line_an_epoch(capsys):
    fit(fresh(), TRAIN, CONFIG, seed=0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == sum(CONFIG.epochs)
    assert re.fullmatch(r"epoch 1/\d+, loss [\d.]+, p [\d.]+, accuracy [\d.]+", lines[0])
    fit(fresh(), TRAIN, CONFIG, seed=0, progress=False)
    assert capsys.readouterr().err == ""
