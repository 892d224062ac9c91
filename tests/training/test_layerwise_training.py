"""COLT trains stage by stage in the same loop: its schedule, its loss, what moves and what not."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from helpers.dots import TEST, TRAIN, batch, fresh, same, timeless

from linfdist.baselines import (
    BaselineConfig,
    build_baseline,
    instability,
    interval_trace,
    latent_attack,
    prefix_length,
)
from linfdist.nn import flop_count
from linfdist.system.serialise import from_dict, to_dict
from linfdist.training import LayerwiseTrainConfig, fit
from linfdist.training.recipe import recipe_of

NET = BaselineConfig(kind="colt", width=1 / 16)
COLT = LayerwiseTrainConfig(
    epochs=(2, 2, 2),
    mix_epochs=1,
    eps_train=Fraction(1, 20),
    lr=0.1,
    lr_epochs=1,
    batch_size=20,
    attack_steps=2,
)


def build(config=NET):
    return fresh(config)


def test_a_stage_has_its_radius_its_rate_and_its_share():
    config = replace(COLT, epochs=(4, 2, 5), mix_epochs=2, lr=0.8, eps_factor=2.0)
    recipe = recipe_of(config, build())
    eps = float(config.eps_train)
    seen = {
        done: (*recipe.set_progress(done), recipe.lr) for done in (0, 1, 2, 3, 4, 5, 6, 7, 10.5)
    }
    assert seen == {
        0: (0, 4 * eps, 0.0, 0.8),
        1: (0, 4 * eps, 0.5, 0.8),
        2: (0, 4 * eps, 1.0, 0.8),
        3: (0, 4 * eps, 1.0, 0.4),
        4: (1, 2 * eps, 0.0, 0.4),
        5: (1, 2 * eps, 0.5, 0.4),
        6: (2, eps, 0.0, 0.2),
        7: (2, eps, 0.5, 0.2),
        10.5: (2, eps, 1.0, 0.2 / 4),
    }
    assert recipe.eps_train == eps and recipe.optimizer.param_groups[0]["lr"] == recipe.lr


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_loss_is_what_the_stage_says(stage):
    config = replace(COLT, l1=0.01, stability=0.02)
    net, (pixels, labels) = build(), batch()
    objective = recipe_of(config, net).objective
    eps = 0.05
    lower, upper = (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)
    begin = prefix_length(net.features, stage)

    def attacked(depth):
        point = latent_attack(
            net.features, net.last, depth, lower, upper, labels, steps=2, step_size=0.25
        )
        layers = net.features[prefix_length(net.features, depth) :]
        return F.cross_entropy(net.last(layers(point)), labels)

    own = attacked(stage)
    before = attacked(stage - 1) if stage else F.cross_entropy(net(pixels), labels)
    weights = [*net.features[begin:].parameters(), *net.last.parameters()]
    sparse = 0.01 * sum(weight.abs().sum() for weight in weights if weight.dim() > 1)
    unstable = 0.0
    if stage < 2:
        trace = interval_trace(net.features[:begin], lower, upper)
        unstable = instability(net.features[begin:], trace.lower, trace.upper)
        unstable = 0.02 * 1.5**stage * unstable
    for share in (0.0, 0.25, 1.0):
        loss, logits = objective(pixels, labels, stage, eps, share)
        expected = share * (own + unstable) + (1 - share) * before + sparse
        assert torch.allclose(loss, expected, atol=1e-6)
        assert torch.equal(logits, net(pixels))
        moved = torch.autograd.grad(loss, weights)
        wanted = torch.autograd.grad(expected, weights, retain_graph=True)
        for gradient, like in zip(moved, wanted, strict=True):
            assert like.any() and torch.allclose(gradient, like, atol=1e-5)
    loss, _ = objective(pixels[:0], labels[:0], stage, eps, 1.0)
    assert loss == 0


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_lies_before_a_stage_has_a_gradient_of_zero(stage, share):
    net, (pixels, labels) = build(), batch()
    loss, _ = recipe_of(COLT, net).objective(pixels, labels, stage, 0.05, share)
    loss.backward()
    front = net.features[: prefix_length(net.features, stage)]
    frozen = {id(weight) for weight in front.parameters()}
    for weight in net.parameters():
        assert weight.grad is not None
        assert weight.grad.any() == (id(weight) not in frozen)
    empty, _ = recipe_of(COLT, net).objective(pixels[:0], labels[:0], stage, 0.05, share)
    net.zero_grad()
    empty.backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in net.parameters())


def test_a_stage_moves_what_follows_it_alone():
    steps = -(-len(TRAIN) // COLT.batch_size)
    ends = []
    for epochs in (2, 4, 6):  # the ends of the stages
        net = build()
        fit(net, TRAIN, COLT, seed=0, progress=False, stop_after_steps=epochs * steps)
        ends.append([weight.detach().clone() for weight in net.parameters()])
    for stage in (1, 2):
        front = sum(1 for _ in net.features[: prefix_length(net.features, stage)].parameters())
        assert front == 2 * stage
        pairs = list(zip(ends[stage - 1], ends[stage], strict=True))
        assert all(torch.equal(old, new) for old, new in pairs[:front])
        assert all(not torch.equal(old, new) for old, new in pairs[front:])


def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(tmp_path):
    whole = build()
    rows = fit(whole, TRAIN, COLT, seed=3, test=TEST, progress=False)
    steps = -(-len(TRAIN) // COLT.batch_size)
    path = tmp_path / "checkpoint.pt"
    for stop in (1, 2 * steps - 1, 2, None):  # the second ends a stage, where momentum goes
        again = build()
        given = {"checkpoint": path, "stop_after_steps": stop, "test": TEST}
        resumed = fit(again, TRAIN, COLT, seed=3, progress=False, **given)
    assert same(whole, again) and timeless(rows) == timeless(resumed)
    assert [row["eps_train"] for row in rows] == pytest.approx(
        [0.05 * 1.2**power for power in (2, 2, 1, 1, 0, 0)]
    )


def test_it_learns_and_certifies():
    net = build(replace(NET, width=0.25))
    config = replace(COLT, epochs=(4, 4, 4), stability=0.01, attack_steps=4)
    last = fit(net, TRAIN, config, seed=0, test=TEST, progress=False)[-1]
    assert last["test_accuracy"] > 0.9 and last["test_certified"] > 0.5


def test_the_network_is_the_published_one():
    flops = {"mnist": 4_938_564, "cifar10": 6_859_204}  # 4.9M and 6.9M in [Zhang2021, Table 1]
    for shape, count in (((1, 28, 28), flops["mnist"]), ((3, 32, 32), flops["cifar10"])):
        net = build_baseline(
            BaselineConfig(kind="colt"),
            input_shape=shape,
            num_classes=10,
            mean=(0.5,) * shape[0],
            std=0.5,
        )
        assert flop_count(net) == count


def test_it_is_kept_in_a_record():
    assert from_dict(LayerwiseTrainConfig, to_dict(COLT)) == COLT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": (1, 0, 1)}, "epochs must be three numbers of at least 1, one for each stage"),
        ({"epochs": (1, 1)}, "epochs must be three numbers"),
        ({"eps_train": Fraction(-1)}, "eps_train must be at least 0, in pixels; got -1"),
        ({"attack_steps": 0}, "attack_steps must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"stability": -1.0}, "stability must be at least 0; got -1.0"),
    ],
)
def test_bad_settings_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(COLT, **change)


def test_it_trains_its_own_kind_of_network():
    with pytest.raises(TypeError, match="LayerwiseTrainConfig must train a ColtNet; got LinfDist"):
        fit(fresh(), TRAIN, COLT, seed=0, progress=False)
    with pytest.raises(TypeError, match="got CapNet"):
        fit(build(BaselineConfig(kind="cap", width=0.25)), TRAIN, COLT, seed=0, progress=False)


def test_the_optimizer_is_sgd_with_the_configuration_s_momentum():
    config = replace(COLT, momentum=0.25, lr=0.3)
    recipe = recipe_of(config, build())
    (group,) = recipe.optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.3, 0.25)
    assert not group["nesterov"] and group["dampening"] == group["weight_decay"] == 0
