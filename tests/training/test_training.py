"""Training: what a run does, what its rows say, and what it refuses."""

import math
import re
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from helpers.dots import (
    CONFIG,
    GATED,
    IBP,
    INFO,
    KINDS,
    LOSSES,
    MIXTURE,
    MLP,
    NET,
    SMOOTHINGS,
    TEST,
    TRAIN,
    dots,
    fresh,
    same,
    timeless,
)
from torch.utils._python_dispatch import TorchDispatchMode

from linfdist.data import Augmentation, ImageSet, split_validation
from linfdist.evaluation import clean_and_certified, evaluate
from linfdist.nn import LpDist, MeanShift
from linfdist.robust import losses
from linfdist.robust.losses import HingeLoss
from linfdist.system.devices import DeviceError
from linfdist.training import TrainConfig, checks, dist_net, fit, loop
from linfdist.training.state import TrainingState


@pytest.mark.quick
@LOSSES
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


@pytest.mark.quick
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


@pytest.mark.quick
def test_the_threshold_is_in_pixels(monkeypatch):
    seen = []

    def hinge(logits, labels, threshold, mix):
        seen.append((threshold, mix))
        return logits.sum()

    monkeypatch.setattr(dist_net, "hinge_loss", hinge)
    fit(fresh(), TRAIN, CONFIG, seed=0, stop_after_steps=1)
    assert seen == [(pytest.approx(0.3 / 0.4), 0.75)]


@pytest.mark.quick
def test_the_head_s_radius_is_eps_train_in_the_unit_of_features(monkeypatch):
    """eps_train in pixels over the std of 0.4: it rises from 0 over the first two epochs."""
    net, seen = fresh(MLP), []
    bound = net.logits_and_ball_margins

    def record(features, radius, labels):
        seen.append(radius)
        return bound(features, radius, labels)

    monkeypatch.setattr(net, "logits_and_ball_margins", record)
    run = TrainingState(net, TRAIN, replace(CONFIG, loss=IBP), 0, None, "cpu")
    for _ in range(12):
        run.train_step()
    eps = [0.1 * min(1, step / 8) for step in range(12)]
    assert seen == pytest.approx([value / 0.4 for value in eps])


@LOSSES
def test_relaxation_divides_the_radius_of_the_loss(net_config, config, monkeypatch):
    """By 16, then by 16 and by 4 in the epoch of two steps in which p rises, then by 1."""
    config = replace(
        config, epochs=(1, 1, 1), batch_size=len(TRAIN) // 2, smoothing="matched_lse", p_end=60.0
    )

    def radii(relaxation):
        seen = []
        changed = replace(config, relaxation=relaxation)
        run = TrainingState(fresh(net_config), TRAIN, changed, 0, None, "cpu")
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


def test_a_report_is_of_the_epoch_that_has_just_ended_or_runs():
    run = TrainingState(fresh(), TRAIN, CONFIG, 0, None, "cpu")
    for epoch in (1, 2):
        run.train_step()
        assert run.report().startswith(f"epoch {epoch}/{sum(CONFIG.epochs)}, loss ")
        while run.step % run.steps_per_epoch:
            run.train_step()
        run.end_epoch()
        row = run.rows[-1]
        assert run.report().startswith(
            f"epoch {epoch}/{sum(CONFIG.epochs)}, loss {row['train_loss']:.4f}, p "
        )
        assert run.report().endswith(f"accuracy {row['train_accuracy']:.4f}")


def scale_of(run):
    return run.recipe.objective.scale


def test_the_scale_is_learnt_at_its_own_rate_without_decay_and_is_no_part_of_the_network():
    config = replace(CONFIG, loss=replace(MIXTURE, scale_rate=0.25), weight_decay=0.5)
    run = TrainingState(fresh(), TRAIN, config, 0, None, "cpu")
    assert scale_of(run).item() == MIXTURE.scale
    assert "scale" not in run.net.state_dict()
    run.train_step()
    group = run.optimizer.param_groups[-1]
    assert group["params"] == [scale_of(run)] and group["decay"] == "none"
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.02, 0.005]
    # Adam's first step is one of the rate, whatever the gradient.
    assert abs(scale_of(run).item() - MIXTURE.scale) == pytest.approx(0.005, rel=1e-4)


def test_a_scale_of_rate_0_or_without_cross_entropy_stays():
    for change in ({"scale_rate": 0.0}, {"weights": (0.0, 0.0, 0.0)}):
        run = TrainingState(
            fresh(), TRAIN, replace(CONFIG, loss=replace(MIXTURE, **change)), 0, None, "cpu"
        )
        for _ in range(6):
            run.train_step()
        assert scale_of(run).item() == MIXTURE.scale


@pytest.mark.quick
@pytest.mark.parametrize(("net_config", "loss"), [(NET, MIXTURE), (MLP, GATED)])
def test_lambda_follows_progress(net_config, loss, monkeypatch):
    config = replace(CONFIG, loss=loss, batch_size=28)  # two steps an epoch
    run = TrainingState(fresh(net_config), TRAIN, config, 0, None, "cpu")
    seen, forward = [], run.objective.forward
    monkeypatch.setattr(
        run.objective, "forward", lambda *args: (seen.append(args[4]), forward(*args))[1]
    )
    for _ in range(10):
        run.train_step()
    first, start, end = loss.weights
    fall = [start * (end / start) ** (step / 4) for step in range(4)]
    assert seen == pytest.approx([first] * 4 + fall + [end] * 2)


def test_a_cosine_from_the_start_is_what_the_rows_say():
    rows = fit(fresh(), TRAIN, replace(CONFIG, lr_schedule="cosine"), seed=0)
    progress = [0.75, 1.75, 2.75, 3.75, 4.75]
    assert [row["lr"] for row in rows] == pytest.approx(
        [0.01 * (1 + math.cos(math.pi * t / 5)) for t in progress]
    )


def test_rows_say_that_the_images_watched_are_of_validation():
    rest, validation = split_validation(dots(80))
    rows = fit(fresh(), rest, CONFIG, seed=0, test=validation)
    names = "train_accuracy validation_accuracy validation_certified seconds"
    assert [list(row)[5:] for row in rows] == [names.split()] * 5
    watched, unwatched = fresh(), fresh()
    fit(watched, rest, CONFIG, seed=0, test=validation)
    fit(unwatched, rest, CONFIG, seed=0)
    assert same(watched, unwatched)


def test_lp_then_lse_is_one_and_then_the_other(monkeypatch):
    config = replace(
        CONFIG, smoothing="lp_then_lse", p_rise=20.0, p_end=60.0, relaxation=4.0, batch_size=28
    )
    run = TrainingState(fresh(), TRAIN, config, 0, None, "cpu")
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
    run = TrainingState(fresh(), TRAIN, config, 0, TEST, "cpu")
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


@pytest.mark.quick
def test_the_mean_shifts_and_every_parameter_move():
    net, start = fresh(), fresh()
    fit(net, TRAIN, CONFIG, seed=0)
    for name, value in net.state_dict().items():
        constant = "normalize" in name
        assert torch.equal(value, start.state_dict()[name]) == constant, name
    assert sum(isinstance(module, MeanShift) for module in net.modules()) == 2


class NothingIsAsked(TorchDispatchMode):
    """Refuses what makes the host wait for the values of a device; test_training_gpu.py uses it.

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


@LOSSES
@pytest.mark.parametrize("p_start", [8.0, math.inf])
def test_no_step_asks_for_a_value(net_config, config, p_start):
    changed = replace(config, p_start=p_start)
    run = TrainingState(fresh(net_config), TRAIN, changed, 0, None, "cpu")
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


@pytest.mark.quick
def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    nets = [fresh() for _ in range(3)]
    seeds = (0, 0, 1)
    rows = [fit(nets[i], TRAIN, CONFIG, seed=seed, test=TEST) for i, seed in enumerate(seeds)]
    assert same(nets[0], nets[1]) and timeless(rows[0]) == timeless(rows[1])
    assert not same(nets[0], nets[2])


def test_a_loss_that_is_not_finite_names_step_p_and_lr(tmp_path, monkeypatch):
    real = losses.hinge_loss
    count = iter(range(100))

    def hinge(*args):
        return real(*args) * (math.nan if next(count) == 9 else 1)

    monkeypatch.setattr(dist_net, "hinge_loss", hinge)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # after every step
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
    with pytest.raises(TypeError, match="MixtureLoss must train a LinfDistNet; got LinfDistNetML"):
        fit(fresh(MLP), TRAIN, replace(CONFIG, loss=MIXTURE), seed=0)
    with pytest.raises(TypeError, match="GatedLoss must train a LinfDistNetMLP; got LinfDistNet"):
        fit(fresh(), TRAIN, replace(CONFIG, loss=GATED), seed=0)
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
        ({"batch_size": 0}, "batch_size must be at least 2; got 0"),
        ({"batch_size": 1}, "batch_size must be at least 2; got 1. .*nothing of a single image"),
        ({"p_start": 0.5}, r"p_start must be in \[1, inf\].*got 0.5"),
        ({"p_end": math.inf}, "p_end finite.*got 8.0 and inf"),
        ({"p_end": 4.0}, "p_end must be at least p_start=8.0; got 4.0"),
        ({"decay": "l1"}, "decay must be one of lp, l2, none; got 'l1'"),
        (
            {"smoothing": "max"},
            "smoothing must be one of lp, lse, matched_lse, lp_then_lse; got 'max'",
        ),
        ({"lr_schedule": "step"}, "lr_schedule must be one of paper, cosine; got 'step'"),
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


@KINDS
def test_a_last_batch_of_one_image_trains_on_it(net_config, config, monkeypatch):
    """By its own mean nothing would be left of it: its loss would not depend on its pixels."""
    seen = []

    def moved(pixels):
        """The network after an epoch of 16, 16 and 1 images, of which the last has these pixels."""
        net = fresh(net_config)
        changed = replace(config, epochs=(1, 0, 1), augmentation=Augmentation())
        run = TrainingState(net, TRAIN.take(33), changed, 0, None, "cpu")
        forward = run.objective.forward

        def record(given, labels, *values):
            if len(given) == 1:
                given = torch.full_like(given, pixels)
                seen.append([m.training for m in net.modules() if isinstance(m, MeanShift)])
            return forward(given, labels, *values)

        monkeypatch.setattr(run.objective, "forward", record)
        for _ in range(3):
            run.train_step()
        assert all(module.training for module in net.modules())
        return net

    dark, bright = moved(0.0), moved(1.0)
    first = "features.layers.1.weight"
    assert not torch.equal(dark.state_dict()[first], bright.state_dict()[first])
    assert seen == [[False, False]] * 2


def test_a_set_of_one_image_is_refused():
    for train, config in ((TRAIN.take(1), CONFIG), (TRAIN, replace(CONFIG, train_images=1))):
        with pytest.raises(
            ValueError, match=r"train must hold at least two images; got one\. A mean"
        ):
            fit(fresh(), train, config, seed=0)


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_of_one_image_are_refused_where_each_has_its_own_mean(processes, monkeypatch):
    config = replace(CONFIG, batch_size=2 * processes - 1)
    monkeypatch.setattr(checks.distributed, "size", lambda: processes)
    message = f"batch_size must be at least {2 * processes} for {processes} processes with sync"
    with pytest.raises(ValueError, match=message):
        fit(fresh(), TRAIN, config, seed=0, sync_mean_shift=False)
    checks.check_share(replace(config, batch_size=2 * processes))


@pytest.mark.parametrize(("sync", "images", "alone"), [(True, 2, False), (False, 2, True)])
def test_a_share_of_one_image_is_shifted_by_running_means(monkeypatch, sync, images, alone):
    """Synchronized shifts take the mean of the whole batch, of two images here."""
    run = TrainingState(fresh(), TRAIN.take(16 + images), CONFIG, 0, None, "cpu", sync=sync)
    run.step = 1
    run.batches.get = lambda epoch, index: (TRAIN.images[:1] / 255, TRAIN.labels[:1])
    seen = []

    def objective(*values):
        seen.extend(m.training for m in run.net.modules() if isinstance(m, MeanShift))
        raise EOFError

    run.objective = objective
    with pytest.raises(EOFError):
        run.train_step()
    assert seen == [not alone] * 2


@pytest.mark.quick
@KINDS
def test_a_row_s_loss_and_accuracy_are_means_over_the_epoch_s_images(
    net_config, config, monkeypatch
):
    """Of batches of 16, 16, 16 and 8 images, each weighed by its images."""
    run = TrainingState(fresh(net_config), TRAIN, config, 0, None, "cpu")
    seen, objective = [], run.objective.forward

    def record(pixels, labels, *values):
        loss, logits = objective(pixels, labels, *values)
        seen.append((len(labels), loss.item(), (logits.argmax(1) == labels).tolist()))
        return loss, logits

    monkeypatch.setattr(run.objective, "forward", record)
    for _ in range(run.steps_per_epoch):
        run.train_step()
    run.end_epoch()
    (row,) = run.rows
    assert [number for number, *_ in seen] == [16, 16, 16, 8]
    loss = sum(number * loss for number, loss, _ in seen) / 56
    assert row["train_loss"] == pytest.approx(loss, rel=1e-6)
    assert row["train_accuracy"] == sum(sum(right) for *_, right in seen) / 56


def test_a_loss_that_is_not_finite_ends_an_epoch_of_many_steps_early(monkeypatch):
    """The losses are looked at every 20th step, not only at the epoch's end."""
    real, steps = losses.hinge_loss, []

    def hinge(*args):
        steps.append(args)
        return real(*args) * (math.nan if len(steps) == 4 else 1)

    monkeypatch.setattr(dist_net, "hinge_loss", hinge)
    with pytest.raises(FloatingPointError, match="got nan at step 3"):
        fit(fresh(), TRAIN, replace(CONFIG, batch_size=2), seed=0)
    assert len(steps) == loop.REPORT_STEPS == 20


@KINDS
def test_an_epoch_is_judged_at_the_data_set_s_eps_and_the_schedule_s_p(net_config, config):
    net = fresh(net_config)
    row = fit(net, TRAIN, replace(config, epochs=(6, 4, 2), lr=0.05), seed=0, test=TEST)[-1]
    found = clean_and_certified(net, TEST, eps=INFO.eps)
    assert (row["test_accuracy"], row["test_certified"]) == found
    other = clean_and_certified(net, TEST, eps=2 * INFO.eps)
    assert other != found  # eps matters here


@pytest.mark.quick
@pytest.mark.parametrize("decay", ["lp", "l2", "none"])
def test_the_optimizer_has_the_configuration_s_settings(decay):
    """None of them the default of the optimizer itself."""
    settings = {"betas": (0.8, 0.95), "weight_decay": 0.07}
    config = replace(CONFIG, loss=IBP, lr=0.5, adam_eps=1e-3, decay=decay, p_start=4.0, **settings)
    run = TrainingState(fresh(MLP), TRAIN, config, 0, None, "cpu")
    run.train_step()
    dist, head = run.optimizer.param_groups
    assert (dist["decay"], head["decay"]) == (decay, "none" if decay == "none" else "l2")
    for group in (dist, head):
        assert {name: group[name] for name in settings} == settings
        assert (group["eps"], group["lr"], group["p"]) == (1e-3, 0.5, 4.0)


def test_lp_then_lse_is_lp_at_p_start_alone():
    config = replace(CONFIG, smoothing="lp_then_lse", p_start=8.0, p_rise=8.5, p_end=60.0)
    assert config.smooth(8.0) == 8.0 and config.smooth(math.inf) == math.inf
    for p in (8.5, 9.0, 16.0, 59.0):
        assert config.smooth(p).t == p - 1 and config.smooth(p).matched


@pytest.mark.parametrize("name", ["cuda:99", "meta", "mps"])
def test_a_device_that_cannot_be_used_is_named_before_training(name, monkeypatch):
    monkeypatch.setattr(TrainingState, "train_step", lambda run: pytest.fail("a step"))
    message = f"device '{name}' cannot be used: .{{5,160}} Use cpu, or cuda"
    with pytest.raises(DeviceError, match=message):
        fit(fresh(), TRAIN, CONFIG, seed=0, device=name)
    with pytest.raises(DeviceError, match=message):
        evaluate(fresh(), TEST, TEST.info.eps, device=name)
