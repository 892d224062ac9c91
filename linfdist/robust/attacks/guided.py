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
from linfdist.robust.attacks.pgd import Attack, ball, column
from linfdist.robust.checks import Classifier, check_finite, check_images, norm, radius
from linfdist.system.inputs import checked_generator
from linfdist.system.values import whole

Loss = Literal["margin", "cross_entropy"]
# Auto-PGD's constants  [CroceHein2020, Sec. 3].
MOMENTUM = 0.25  # what a step keeps of the step before
RISING = 0.75  # the share of steps that must raise the margin for the step size to stay


@torch.inference_mode(False)
def guided_pgd(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Fraction | float | Tensor,
    *,
    guide: float | LogSumExp = 100.0,
    loss: Loss = "margin",
    num_steps: int = 100,
    num_restarts: int = 1,
    generator: torch.Generator | None = None,
) -> Attack:
    """Ascent of the p = ∞ margin max_{k≠y} logit_k − logit_y by signs of gradients at ``guide``.

    At p = ∞ one input of each neuron has a gradient; the same weights at a finite p, or under a
    ``LogSumExp``, give one to many. Only the direction is theirs: every verdict, and the margin
    that says which iterate is best, is the network's at p = ∞. The gradient is that of the margin
    or of the cross entropy. Steps are Auto-PGD's [CroceHein2020]: 2 eps at first, with a quarter of
    the step before, halved and taken back to the best iterate where they no longer pay.

    ``images`` are pixels in [0, 1], shape (batch, *input_shape); eps, a number or a tensor with one
    for each image, is in pixels. Each of the ``num_restarts`` starts is uniform in the ball, drawn
    on the generator's device. Images survive only if right at every iterate; images that are beaten
    are not attacked further. Before it is returned the whole batch is classified once more, and
    that verdict counts.

    Raises:
        TypeError: the network is no ``Classifier``, or an argument is of another type.
        ValueError: images, labels, eps, weights or a setting are not what they must be.
    """
    num_steps = whole(num_steps, "guided_pgd: num_steps", least=0)
    num_restarts = whole(num_restarts, "guided_pgd: num_restarts", least=1)
    guide = norm(guide, "guided_pgd", "guide's p")
    generator = checked_generator(generator, "guided_pgd")
    if loss not in get_args(Loss):
        known = ", ".join(get_args(Loss))
        raise ValueError(f"guided_pgd: loss must be one of {known}; got {loss!r}.")
    images, labels = check_images(net, images, labels, "guided_pgd")
    check_finite(net, "guided_pgd")
    eps = column(radius(eps, images, "guided_pgd"), images)
    lower, upper = ball(images, eps)
    device = images.device if generator is None else generator.device
    with frozen(net) as net, torch.no_grad():
        adversarial = images.clone()
        alive = (margins(net, images, labels) < 0).nonzero().squeeze(1)
        for _ in range(num_restarts):
            # Drawn for all images, so that what one of them gets does not hang on the others.
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
    """What is climbed: a network at labels, in a box, and where the gradient comes from."""

    net: Classifier
    labels: Tensor
    lower: Tensor
    upper: Tensor
    guide: float | LogSumExp
    loss: Loss

    def gradient(self, x: Tensor, rows: Tensor) -> Tensor:
        """Of the loss of the same weights at ``guide``."""
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
    """Where the climb from one start stands; a row an image.

    ``rises``: how many steps since the last checkpoint raised the margin. ``earlier``: the best
    margin at that checkpoint; ``halved``: whether the step was halved there.
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
            inertia = MOMENTUM * (x - state.before[rows])
            moved = target.project(x + (1 - MOMENTUM) * (moved - x) + inertia, rows)
        margin = margins(target.net, moved, target.labels[rows])
        state.rises[rows] += margin > state.margin[rows]
        state.before[rows], state.x[rows], state.margin[rows] = x, moved, margin
        better = margin > state.best_margin[rows]
        state.best[rows[better]], state.best_margin[rows[better]] = moved[better], margin[better]
        if number in checkpoints:
            _halve(state, number - last)
            last = number


def _halve(state: _Climb, steps: int) -> None:
    """At a checkpoint: half the step, from the best iterate, where the last ``steps`` paid little.

    Where fewer than 75 % of them raised the margin, or where the step was not halved at the last
    checkpoint and the best margin has not risen since.
    """
    stuck = ~state.halved & (state.best_margin <= state.earlier)
    halve = (state.rises < RISING * steps) | stuck
    state.step[halve] /= 2
    state.x[halve] = state.before[halve] = state.best[halve]
    state.margin[halve] = state.best_margin[halve]
    state.halved, state.earlier = halve, state.best_margin.clone()
    state.rises.zero_()


def _checkpoints(num_steps: int) -> set[int]:
    """The steps after which the step size is looked at: 22 % of them, then ever shorter shares."""
    found, before, now = set(), 0, 22
    while now < 100:
        found.add(math.ceil(now * num_steps / 100))
        before, now = now, now + max(now - before - 3, 6)
    return found
