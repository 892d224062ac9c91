"""The losses against their formulas, written out."""

import math
from fractions import Fraction

import pytest
import torch

from linfdist.robust import HingeLoss, IBPLoss, hinge_loss, ibp_loss

LOGITS = torch.tensor([[1.0, 0.5, -1.0], [0.0, 0.25, 2.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])
# With threshold 1: image 0 has margins 0, 0.5, -1; image 1 has 0.75, 0, 2.75.


def test_hinge_is_the_mean_of_the_largest_margins():
    assert hinge_loss(LOGITS, LABELS, 1.0).item() == (0.5 + 2.75) / 2


def test_hinge_mixes_in_the_mean_over_all_classes():
    mean = (0.5 + 0.75 + 2.75) / 6
    assert hinge_loss(LOGITS, LABELS, 1.0, mix=0).item() == pytest.approx(mean)
    mixed = 0.75 * (0.5 + 2.75) / 2 + 0.25 * mean
    assert hinge_loss(LOGITS, LABELS, 1.0, mix=0.75).item() == pytest.approx(mixed)


def test_hinge_is_zero_where_all_margins_reach_the_threshold():
    logits = torch.tensor([[3.0, 2.0, 1.5]])
    for mix in (0.0, 0.5, 1.0):
        assert hinge_loss(logits, torch.tensor([0]), 1.0, mix=mix).item() == 0


def test_hinge_gradient_reaches_the_label_and_its_strongest_rival():
    logits = LOGITS[1:].clone().requires_grad_(True)
    hinge_loss(logits, LABELS[1:], 1.0).backward()
    assert logits.grad.tolist() == [[0, -1, 1]]


def test_ibp_weighs_the_clean_loss_with_kappa():
    margins = torch.tensor([[0.0, 0.5, 1.0], [-1.0, 0.0, 2.0]], dtype=torch.float64)

    def cross_entropy(scores):
        rows = scores.exp() / scores.exp().sum(1, keepdim=True)
        return -(rows[0, 0].log() + rows[1, 1].log()) / 2

    clean, worst = cross_entropy(LOGITS), cross_entropy(margins)
    for kappa in (0.0, 0.25, 1.0):
        expected = kappa * clean + (1 - kappa) * worst
        torch.testing.assert_close(ibp_loss(LOGITS, margins, LABELS, kappa), expected)
    assert clean != worst


@pytest.mark.parametrize("value", [-0.5, 1.7, math.nan])
def test_weights_outside_0_to_1_are_refused(value):
    with pytest.raises(ValueError, match=rf"kappa must be in \[0, 1\]; got {value}.*clean loss"):
        IBPLoss(eps_train=Fraction(1, 10), kappa=value)
    with pytest.raises(ValueError, match=rf"mix must be in \[0, 1\]; got {value}.*largest viola"):
        HingeLoss(threshold=Fraction(1, 10), mix=value)


def test_radii_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"eps_train must be at least 0; got -1.*a radius"):
        IBPLoss(eps_train=Fraction(-1), kappa=0.5)
    for value in (Fraction(-1), Fraction(0)):
        with pytest.raises(ValueError, match=f"threshold must be above 0; got {value}.*in pixels"):
            HingeLoss(threshold=value)


def test_the_ends_of_the_ranges_are_allowed():
    for weight in (0.0, 1.0):
        assert IBPLoss(eps_train=Fraction(0), kappa=weight).kappa == weight
        assert HingeLoss(threshold=Fraction(1, 255), mix=weight).mix == weight
