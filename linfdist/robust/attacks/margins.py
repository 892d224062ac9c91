"""Margins and verdicts: an image in the ball is beaten if the network at p = ∞ misclassifies it."""

import math

import torch
from torch import Tensor

from linfdist.robust.attacks.pgd import Attack
from linfdist.robust.checks import Classifier


def rival_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{k≠y} logit_k − logit_y, shape (batch,)."""
    column = labels.unsqueeze(1)
    rivals = logits.scatter(1, column, -math.inf).amax(1)
    return rivals - logits.gather(1, column).squeeze(1)


def margins(net: Classifier, x: Tensor, labels: Tensor) -> Tensor:
    """``rival_margins`` of the network at p = ∞: below 0 where it is correct, else at least 0.

    A tie that ``argmax`` resolves in favour of y counts as below 0, by the smallest normal number.
    """
    logits = net(x, math.inf)
    margin = rival_margins(logits, labels)
    right = logits.argmax(1) == labels
    return torch.where(right, margin.clamp_max(-torch.finfo(margin.dtype).tiny), margin)


def verdict(
    net: Classifier, adversarial: Tensor, labels: Tensor, box: tuple[Tensor, Tensor]
) -> Attack:
    """The attack with the verdict of one forward pass of the whole batch.

    The products of a conventional head may round differently in a batch of another size.
    """
    lower, upper = box
    assert bool(((lower <= adversarial) & (adversarial <= upper)).all()), "outside of the ball"
    return Attack(adversarial, net(adversarial, math.inf).argmax(1) == labels)
