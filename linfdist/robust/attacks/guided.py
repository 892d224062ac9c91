"""Projected gradient descent at p = ∞ along the gradients of a smoother network."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from linfdist.nn import LogSumExp, frozen
from linfdist.robust.attacks.margins import margins, rival_margins, verdict
from linfdist.robust.attacks.pgd import Attack, column
from linfdist.robust.boxes import attack_box
from linfdist.robust.checks import Classifier, check_finite, check_images, norm, radius
from linfdist.system.inputs import checked_generator
from linfdist.system.values import whole

AttackLoss = Literal["margin", "cross_entropy"]
# Auto-PGD's constants  [CroceHein2020, Sec. 3].
INERTIA = 0.25  # the share of the previous step that a step keeps
RISING = 0.75  # the share of steps that must raise the margin for the step size to stay


@torch.inference_mode(False)
def guided_pgd(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Fraction | float | Tensor,
    *,
    guide: float | LogSumExp = 100.0,
    loss: AttackLoss = "margin",
    num_steps: int = 100,
    num_restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Attack:
    """Ascend the p = ∞ margin max_{k≠y} logit_k − logit_y by signs of gradients at ``guide``.

    At p = ∞ only one input of each neuron has a gradient; at a finite p, or under a ``LogSumExp``,
    the same weights give many inputs a gradient. These gradients set only the direction. Every
    verdict, and the margin that selects the best iterate, comes from the network at p = ∞.

    Steps are Auto-PGD's [CroceHein2020]. The step size starts at 2 eps, and each step keeps a
    quarter of the previous step. Where steps no longer raise the margin, the step size is halved
    and the search returns to the best iterate.

    An image survives only if it is classified correctly at every iterate. Beaten images are not
    attacked further. At the end the whole batch is classified once more, and that verdict counts.

    Args:
        net: the network.
        images: pixels in [0, 1], shape (batch, *input_shape).
        labels: one class per image.
        eps: radius in pixels, a number or a tensor with one radius per image.
        guide: p, or the ``LogSumExp``, of the gradients.
        loss: the function whose gradients are taken, the margin or the cross entropy.
        num_steps: steps per start.
        num_restarts: number of starts, each uniform in the ball.
        generator: source of random numbers, drawn on its device; None for torch's global generator.

    Raises:
        TypeError: the network is not a ``Classifier``, or an argument has the wrong type.
        ValueError: images, labels, eps, weights or a setting are invalid.
    """
    num_steps = whole(num_steps, "guided_pgd: num_steps", least=0)
    num_restarts = whole(num_restarts, "guided_pgd: num_restarts", least=1)
    guide = norm(guide, "guided_pgd", "guide's p")
    generator = checked_generator(generator, "guided_pgd")
    if loss not in get_args(AttackLoss):
        known = ", ".join(get_args(AttackLoss))
        raise ValueError(f"guided_pgd: loss must be one of {known}; got {loss!r}.")
    images, labels = check_images(net, images, labels, "guided_pgd")
    check_finite(net, "guided_pgd")
    eps = column(radius(eps, images, "guided_pgd"), images)
    lower, upper = attack_box(images, eps)
    device = images.device if generator is None else generator.device
    with frozen(net) as net, torch.no_grad():
        adversarial = images.clone()
        alive = (margins(net, images, labels) < 0).nonzero().squeeze(1)
        for _ in range(num_restarts):
            # Drawn for all images, so that one image's numbers do not depend on the other images.
            noise = torch.rand(images.shape, generator=generator, device=device, dtype=images.dtype)
            reach = eps.to(images.dtype)
            start = (images + (2 * noise.to(images.device) - 1) * reach).clamp(lower, upper)
            if not len(alive):
                break
            state = _Climb(x=start[alive], margin=margins(net, start[alive], labels[alive]))
            state.step += 2 * eps[alive].flatten()
            target = _Target(net, labels[alive], lower[alive], upper[alive], guide, loss)
            _climb(state, target, num_steps)
            adversarial[alive] = state.best
            alive = alive[state.best_margin < 0]
        return verdict(net, adversarial, labels, (lower, upper))


@dataclass(frozen=True)
class _Target:
    """The target of the climb: a network, labels, a box, and the source of gradients."""

    net: Classifier
    labels: Tensor
    lower: Tensor
    upper: Tensor
    guide: float | LogSumExp
    loss: AttackLoss

    def gradient(self, x: Tensor, rows: Tensor) -> Tensor:
        """The gradient of the loss, for the same weights at ``guide``."""
        x = x.clone().requires_grad_(True)
        with torch.enable_grad():
            logits, labels = self.net(x, self.guide), self.labels[rows]
            if self.loss == "margin":
                total = rival_margins(logits, labels).sum()
            else:
                total = F.cross_entropy(logits, labels, reduction="sum")
            return torch.autograd.grad(total, x)[0]

    def project(self, x: Tensor, rows: Tensor) -> Tensor:
        return x.clamp(self.lower[rows], self.upper[rows])


@dataclass
class _Climb:
    """The state of the climb from one start; one row per image.

    ``rises``: number of steps since the last checkpoint that raised the margin. ``earlier``: best
    margin at that checkpoint. ``halved``: whether the step was halved at that checkpoint.
    """

    x: Tensor
    margin: Tensor
    before: Tensor = field(init=False)
    best: Tensor = field(init=False)
    best_margin: Tensor = field(init=False)
    step: Tensor = field(init=False)
    rises: Tensor = field(init=False)
    earlier: Tensor = field(init=False)
    halved: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.before, self.best = self.x.clone(), self.x.clone()
        self.best_margin, self.earlier = self.margin.clone(), self.margin.clone()
        self.step, self.rises = torch.zeros_like(self.margin), torch.zeros_like(self.margin)
        self.halved = torch.zeros_like(self.margin, dtype=torch.bool)


def _climb(state: _Climb, target: _Target, num_steps: int) -> None:
    """Raise the margins of all rows that are not beaten."""
    checkpoints, last = _checkpoints(num_steps), 0
    for number in range(1, num_steps + 1):
        rows = (state.best_margin < 0).nonzero().squeeze(1)
        if not len(rows):
            break
        x = state.x[rows]
        step = state.step[rows].to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        moved = target.project(x + step * target.gradient(x, rows).sign(), rows)
        if number > 1:
            inertia = INERTIA * (x - state.before[rows])
            moved = target.project(x + (1 - INERTIA) * (moved - x) + inertia, rows)
        margin = margins(target.net, moved, target.labels[rows])
        state.rises[rows] += margin > state.margin[rows]
        state.before[rows], state.x[rows], state.margin[rows] = x, moved, margin
        better = margin > state.best_margin[rows]
        state.best[rows[better]], state.best_margin[rows[better]] = moved[better], margin[better]
        if number in checkpoints:
            _halve(state, number - last)
            last = number


def _halve(state: _Climb, steps: int) -> None:
    """At a checkpoint, halve the step size and return to the best iterate where progress is slow.

    Progress is slow if fewer than 75 % of the last ``steps`` raised the margin, or if the step was
    not halved at the last checkpoint and the best margin has not risen since.
    """
    stuck = ~state.halved & (state.best_margin <= state.earlier)
    halve = (state.rises < RISING * steps) | stuck
    state.step[halve] /= 2
    state.x[halve] = state.before[halve] = state.best[halve]
    state.margin[halve] = state.best_margin[halve]
    state.halved, state.earlier = halve, state.best_margin.clone()
    state.rises.zero_()


def _checkpoints(num_steps: int) -> set[int]:
    """The steps at which to check the step size: after 22 % of all, then at shrinking intervals."""
    steps, before, now = set(), 0, 22
    while now < 100:
        steps.add(math.ceil(now * num_steps / 100))
        before, now = now, now + max(now - before - 3, 6)
    return steps
