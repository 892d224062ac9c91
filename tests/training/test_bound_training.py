"""The compared methods train in the same loop: their schedules, losses, resuming and evaluation."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from helpers.dots import CONFIG, TEST, TRAIN, batch, fresh, same, timeless

from linfdist.baselines import BaselineConfig, cap_margins
from linfdist.evaluation import clean_and_certified, evaluate
from linfdist.experiments import base, runner
from linfdist.nn import flop_count, parameter_count
from linfdist.robust import hinge_loss, interval_certified
from linfdist.system.serialise import from_dict, to_dict
from linfdist.training import BoundTrainConfig, fit
from linfdist.training.bounds import BoundRecipe
from linfdist.training.recipe import recipe_of

EPS = Fraction(1, 20)
BOUND = BoundTrainConfig(
    epochs=(1, 2, 1), bound="ibp", eps_train=EPS, batch_size=20, lr=1e-3, lr_drops=(3,)
)
HINGE = replace(BOUND, bound="hinge", threshold=Fraction(1, 10), eps_train=Fraction(0))
NET = BaselineConfig(kind="dm_medium", width=0.0625)
GROUPSORT = BaselineConfig(kind="groupsort", width=0.01)
CAP = BaselineConfig(kind="cap", width=0.25)
POLYTOPE = replace(BOUND, bound="cap", kappa=(0.0, 0.0))
PVT = BaselineConfig(kind="pvt", width=0.25)
PROVEN = replace(BOUND, bound="pvt")


def build(config=NET):
    return fresh(config)


@pytest.mark.parametrize("bound", ["ibp", "crown_ibp", "loss_fusion"])
def test_eps_grows_while_kappa_beta_and_the_rate_fall(bound):
    config = replace(BOUND, bound=bound, kappa=(1.0, 0.25))
    recipe = BoundRecipe(build(), config)
    eps = float(EPS)
    seen = [recipe.set_progress(done) for done in (0, 1, 2, 3, 3.5)]
    betas = [0.0] * 5 if bound == "ibp" else [1.0, 1.0, 0.5, 0.0, 0.0]
    assert [value for value, *_ in seen] == pytest.approx([0, 0, eps / 2, eps, eps])
    assert [kappa for _, kappa, _ in seen] == pytest.approx([1, 1, 0.625, 0.25, 0.25])
    assert [beta for *_, beta in seen] == pytest.approx(betas)
    assert recipe.lr == pytest.approx(1e-4) and recipe.optimizer.param_groups[0]["lr"] == recipe.lr
    recipe.set_progress(2.9)
    assert recipe.lr == 1e-3
    recipe.set_progress(3)  # the drop comes with the first step of its epoch
    assert recipe.lr == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("config", "bound"),
    [(NET, "ibp"), (NET, "crown_ibp"), (NET, "loss_fusion"), (CAP, "cap"), (PVT, "pvt")],
)
def test_the_gradient_is_that_of_the_loss(config, bound):
    """Along random directions, of all weights: bounds, lines and verifier among them."""
    net, (pixels, labels) = build(config).double(), batch()
    objective = recipe_of(replace(BOUND, bound=bound), net).objective
    weights = [*net.parameters()]

    def loss():
        return objective(pixels.double(), labels, 0.05, 0.25, 0.5)[0]

    gradients = torch.autograd.grad(loss(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction, step = torch.randn_like(weight), 1e-7
        with torch.no_grad():
            before = loss()
            weight.add_(step * direction)
            after = loss()
            weight.sub_(step * direction)
        slope = (after - before) / step
        assert slope.item() == pytest.approx(
            (gradient * direction).sum().item(), rel=1e-3, abs=1e-5
        )


def test_without_a_ramp_eps_is_whole_at_once():
    assert replace(BOUND, epochs=(0, 0, 2)).share(0) == 1
    assert [replace(BOUND, epochs=(1, 0, 2)).share(done) for done in (0, 0.9, 1)] == [0, 0, 1]


@pytest.mark.parametrize("bound", ["ibp", "crown_ibp", "loss_fusion"])
def test_the_loss_is_a_mixture_of_clean_and_worst_case(bound):
    net, (pixels, labels) = build(), batch()
    objective = recipe_of(replace(BOUND, bound=bound), net).objective
    eps, beta = 0.05, 0.5
    trace = net.trace((pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1), pixels)
    if bound == "loss_fusion":
        worst = net.loss_bound(trace, labels, beta).mean()
    else:
        worst = F.cross_entropy(net.margins(trace, labels, beta), labels)
    for kappa in (0.0, 0.3, 1.0):
        loss, logits = objective(pixels, labels, eps, kappa, beta)
        clean = F.cross_entropy(net(pixels), labels)
        assert torch.allclose(loss, kappa * clean + (1 - kappa) * worst, atol=1e-6)
        assert torch.allclose(logits, net(pixels), atol=1e-6)
    # The box ends at black and white, and the bound grows with it.
    wider, _ = objective(pixels, labels, 0.2, 0.0, beta)
    assert wider > worst
    loss, _ = objective(pixels[:0], labels[:0], eps, 0.0, beta)
    assert loss == 0


def test_a_bound_of_no_weight_is_not_computed(monkeypatch):
    net, (pixels, labels) = build(), batch()
    monkeypatch.setattr(net, "trace", None)
    loss, _ = recipe_of(BOUND, net).objective(pixels, labels, 0.0, 1.0, 1.0)
    assert torch.equal(loss, F.cross_entropy(net(pixels), labels))


def test_cap_trains_on_the_polytopes_margins():
    net, (pixels, labels) = build(CAP), batch()
    objective = recipe_of(POLYTOPE, net).objective
    box = [(pixels + shift).clamp(0, 1) for shift in (-0.05, 0.05)]
    worst = F.cross_entropy(cap_margins(net.features, net.last, *box, labels), labels)
    assert worst < F.cross_entropy(net.margins(net.trace(*box), labels), labels)  # than intervals
    for kappa in (0.0, 0.25):
        loss, logits = objective(pixels, labels, 0.05, kappa, 0.0)
        clean = F.cross_entropy(net(pixels), labels)
        assert torch.allclose(loss, kappa * clean + (1 - kappa) * worst, atol=1e-6)
        assert torch.equal(logits, net(pixels))
    loss, _ = objective(pixels[:0], labels[:0], 0.05, 0.0, 0.0)
    assert loss == 0
    for other, config in ((build(), POLYTOPE), (net, BOUND)):
        with pytest.raises(ValueError, match='bound must be "cap" for a network of kind "cap"'):
            recipe_of(config, other)


def test_pvt_trains_network_and_verifier_on_what_is_proven():
    net, (pixels, labels) = build(PVT), batch()
    objective = recipe_of(PROVEN, net).objective
    box = [(pixels + shift).clamp(0, 1) for shift in (-0.05, 0.05)]
    worst = F.cross_entropy(net.proven_margins(net.trace(*box), labels), labels)
    for kappa in (0.0, 0.25, 1.0):
        loss, logits = objective(pixels, labels, 0.05, kappa, 0.0)
        clean = F.cross_entropy(net(pixels), labels)
        assert torch.allclose(loss, kappa * clean + (1 - kappa) * worst, atol=1e-6)
        assert torch.allclose(logits, net(pixels), atol=1e-6)
        net.zero_grad()
        loss.backward()
        proposed = [weight.grad for weight in net.verifier.parameters()]
        assert all(gradient.any() == (kappa < 1) for gradient in proposed)
    for kappa in (0.0, 1.0):  # processes sum the gradients of all weights
        net.zero_grad()
        loss, _ = objective(pixels[:0], labels[:0], 0.05, kappa, 0.0)
        loss.backward()
        assert loss == 0 and all(weight.grad is not None for weight in net.parameters())
    for other, config in ((build(), PROVEN), (net, BOUND)):
        with pytest.raises(ValueError, match='bound must be "pvt" for a network of kind "pvt"'):
            recipe_of(config, other)


def test_the_hinge_s_threshold_is_in_pixels():
    net, (pixels, labels) = build(GROUPSORT), batch()
    loss, logits = recipe_of(HINGE, net).objective(pixels, labels, 0.0, 1.0, 0.0)
    assert torch.equal(loss, hinge_loss(logits, labels, 0.1 * net.lipschitz))


@pytest.mark.parametrize(
    ("net", "config"), [(NET, BOUND), (GROUPSORT, HINGE), (CAP, POLYTOPE), (PVT, PROVEN)]
)
def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(net, config, tmp_path):
    whole = build(net)
    rows = fit(whole, TRAIN, config, seed=3, test=TEST, progress=False)
    again = build(net)
    path = tmp_path / "checkpoint.pt"
    for steps in (1, 5, None):
        given = {"checkpoint": path, "stop_after_steps": steps, "test": TEST}
        resumed = fit(again, TRAIN, config, seed=3, progress=False, **given)
        if steps is not None:
            again = build(net)  # a new process has new weights
    assert timeless(resumed) == timeless(rows)
    assert same(again, whole)
    assert [row["p"] for row in rows] == [math.inf] * 4
    eps = [row["eps_train"] for row in rows]
    assert eps == [None] * 4 if config is HINGE else eps[-1] == float(EPS)


def test_it_learns_to_be_certified():
    """Many more images than before, in some seconds."""
    net = build(replace(NET, width=0.125))
    before = clean_and_certified(net, TRAIN, eps=EPS)
    longer = replace(BOUND, epochs=(4, 16, 20), lr=5e-3, lr_drops=())
    fit(net, TRAIN, longer, seed=0, progress=False)
    clean, certified = clean_and_certified(net, TRAIN, eps=EPS)
    assert before[1] < 0.2 and clean > 0.8 and certified > 0.5


@pytest.mark.parametrize("config", [NET, GROUPSORT])
def test_evaluation_records_the_certificate_of_each_image(config):
    net = build(config)
    metrics, table = evaluate(net, TEST, EPS, progress=False)
    pixels = TEST.images.float() / 255
    wanted = interval_certified(net, pixels, TEST.labels, EPS)
    assert table["certified_interval"].tolist() == wanted.tolist()
    assert ("certified_accuracy_margin" in metrics) == (config is GROUPSORT)
    assert table["margin_radius"].isna().all() == (config is NET)
    assert metrics["certified_accuracy"] <= metrics["pgd_accuracy"] <= metrics["clean_accuracy"]


def test_a_setting_is_written_built_and_counted():
    setting = base.Setting(dataset="digits", eps=EPS, net=NET, train=BOUND)
    assert from_dict(base.Setting, to_dict(setting)) == setting
    net = runner.build(setting, TRAIN.info, seed=1)
    assert net.config == NET
    assert runner.counts(net) == {"parameters": parameter_count(net), "flops": flop_count(net)}
    assert runner._epochs_seconds(net, setting, TRAIN) > 0


def test_errors():
    with pytest.raises(ValueError, match=r"bound must be one of ibp, .*; got 'zonotope'"):
        replace(BOUND, bound="zonotope")
    with pytest.raises(ValueError, match=r"epochs must be three numbers.*got \(0, 0, 0\)"):
        replace(BOUND, epochs=(0, 0, 0))
    with pytest.raises(ValueError, match=r"batch_size must be at least 1; got 0"):
        replace(BOUND, batch_size=0)
    with pytest.raises(ValueError, match=r"kappa must be in \[0, 1\]; got \(1\.0, 2\)"):
        replace(BOUND, kappa=(1.0, 2))
    with pytest.raises(ValueError, match=r'threshold must be given for bound="hinge"'):
        replace(BOUND, bound="hinge")
    with pytest.raises(ValueError, match=r"threshold must be given.*got bound='ibp'"):
        replace(BOUND, threshold=Fraction(1, 10))
    with pytest.raises(ValueError, match=r"HingeLoss: threshold must be above 0"):
        replace(HINGE, threshold=Fraction(0))
    with pytest.raises(ValueError, match=r"eps_train must be at least 0"):
        replace(BOUND, eps_train=Fraction(-1, 10))
    with pytest.raises(TypeError, match=r"BoundTrainConfig must train a BaselineNet; got LinfDist"):
        fit(fresh(), TRAIN, BOUND, seed=0)
    with pytest.raises(TypeError, match=r"Lipschitz logits, \"groupsort\"; got 'dm_medium'"):
        fit(build(), TRAIN, HINGE, seed=0)
    with pytest.raises(TypeError, match=r"HingeLoss must train a LinfDistNet; got GroupSortNet"):
        fit(build(GROUPSORT), TRAIN, CONFIG, seed=0)


def test_the_optimizer_is_plain_adam_at_the_configuration_s_rate():
    (group,) = BoundRecipe(build(), replace(BOUND, lr=0.3)).optimizer.param_groups
    assert (group["lr"], group["betas"], group["eps"]) == (0.3, (0.9, 0.999), 1e-8)
    assert group["weight_decay"] == 0 and not group["amsgrad"] and not group["maximize"]
