"""Every recipe keeps the contract of ``Recipe``: what ``fit`` reads, and a gradient everywhere."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import get_type_hints

import pytest
import torch
from helpers.dots import CONFIG, GATED, IBP, MIXTURE, MLP, NET, batch, fresh

from linfdist.baselines import BaselineConfig
from linfdist.training import BoundTrainConfig, LayerwiseTrainConfig
from linfdist.training.objective import Objective
from linfdist.training.recipe import Recipe, recipe_of

EPS = Fraction(1, 20)
BOUND = BoundTrainConfig(epochs=(1, 1, 1), bound="ibp", eps_train=EPS)
COLT = LayerwiseTrainConfig(epochs=(1, 1, 1), eps_train=EPS, mix_epochs=1)
HINGE = replace(BOUND, bound="hinge", threshold=EPS, eps_train=Fraction(0))
CASES = {
    "hinge": (NET, CONFIG),
    "mixture": (NET, replace(CONFIG, loss=MIXTURE)),
    "ibp": (MLP, replace(CONFIG, loss=IBP)),
    "gated": (MLP, replace(CONFIG, loss=GATED)),
    "bound ibp": (BaselineConfig(kind="dm_medium", width=1 / 16), BOUND),
    "bound crown_ibp": (
        BaselineConfig(kind="dm_medium", width=1 / 16),
        replace(BOUND, bound="crown_ibp"),
    ),
    "bound loss_fusion": (
        BaselineConfig(kind="dm_medium", width=1 / 16),
        replace(BOUND, bound="loss_fusion"),
    ),
    "bound cap": (BaselineConfig(kind="cap", width=1 / 4), replace(BOUND, bound="cap")),
    "bound pvt": (BaselineConfig(kind="pvt", width=1 / 4), replace(BOUND, bound="pvt")),
    "bound hinge": (BaselineConfig(kind="groupsort", width=0.01), HINGE),
    "colt": (BaselineConfig(kind="colt", width=1 / 16), COLT),
}
EACH = pytest.mark.parametrize(("net", "config"), CASES.values(), ids=CASES)


@EACH
def test_a_recipe_has_all_that_fit_reads(net, config):
    recipe = recipe_of(config, fresh(net))
    assert all(hasattr(recipe, name) for name in get_type_hints(Recipe))
    assert isinstance(recipe.objective, Objective)
    assert math.isnan(recipe.lr)
    recipe.set_progress(0.5)
    assert math.isfinite(recipe.lr)
    assert recipe.p >= 1 and (recipe.eval_p == recipe.p)
    weights = {id(weight) for weight in recipe.objective.parameters()}
    held = {id(w) for group in recipe.optimizer.param_groups for w in group["params"]}
    assert held == weights


@EACH
@pytest.mark.parametrize("epochs", [0, 0.5, 1.5, 2.5])
def test_an_empty_share_has_the_loss_0_and_a_gradient_of_0_in_every_weight(net, config, epochs):
    recipe = recipe_of(config, fresh(net))
    pixels, labels = batch()
    loss, logits = recipe.objective(pixels[:0], labels[:0], *recipe.set_progress(epochs))
    loss.backward()
    assert loss == 0 and logits.shape == (0, 3)
    for weight in recipe.objective.parameters():
        assert weight.grad is not None and not weight.grad.any()


@EACH
@pytest.mark.parametrize("epochs", [0, 0.5, 1.5, 2.5])
def test_every_weight_has_a_gradient_in_every_step_and_idle_weights_one_of_0(net, config, epochs):
    recipe = recipe_of(config, fresh(net))
    progress = recipe.set_progress(epochs)
    loss, _ = recipe.objective(*batch(), *progress)
    loss.backward()
    assert all(weight.grad is not None for weight in recipe.objective.parameters())
    assert not any(weight.grad.any() for weight in recipe.objective.idle(*progress))


@EACH
def test_the_loss_is_the_methods_own_where_there_are_images(net, config):
    recipe = recipe_of(config, fresh(net))
    progress = recipe.set_progress(1.5)
    whole = recipe.objective(*batch(), *progress)[0]
    assert torch.equal(whole, recipe.objective.loss(*batch(), *progress)[0]) and whole > 0
