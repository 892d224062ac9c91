"""COLT's attack: points that a relaxation cannot tell from a layer's outputs  [Balunovic2020]."""

import itertools
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines.crown import chord
from linfdist.baselines.ibp import LayerBounds, interval_trace
from linfdist.nn import Normalize
from linfdist.system.inputs import integer_labels


def zonotope_point(
    steps: Sequence[LayerBounds], lower: Tensor, upper: Tensor, errors: Sequence[Tensor]
) -> Tensor:
    """The point of the zonotope of the outputs of ``steps`` at ``errors``, each in [−1, 1].

    The first error moves the input in its box, and each further one the outputs of a ReLU from the
    middle between its two parallel lines, u (z − l) / (u − l) and u z / (u − l): for every input in
    the box there are errors at which the point is the true output. It is linear in the errors.
    """
    first, *others = errors
    point = (lower + upper) / 2 + (upper - lower) / 2 * first
    rest = iter(others)
    for step in steps:
        if isinstance(step.layer, nn.ReLU):
            slope, offset = chord(step.lower, step.upper)
            point = slope * point + offset / 2 * (1 + next(rest))
        elif isinstance(step.layer, nn.Linear | nn.Conv2d | nn.Flatten | Normalize):
            point = step.layer(point)
        else:
            raise TypeError(
                "zonotope_point: layers must be Linear, Conv2d, ReLU, Flatten or Normalize; got "
                f"{type(step.layer).__name__}. Train it on intervals."
            )
    return point


def prefix_length(layers: Iterable[nn.Module], relus: int) -> int:
    """How many layers there are up to the ReLU of that number, from 1; 0 for none."""
    ends = [0, *(index + 1 for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU))]
    if relus >= len(ends):
        raise ValueError(
            f"prefix_length: relus must be at most {len(ends) - 1}, the number of ReLUs; got "
            f"{relus}."
        )
    return ends[relus]


def latent_attack(
    layers: Sequence[nn.Module],
    last: nn.Linear,
    relus: int,
    lower: Tensor,
    upper: Tensor,
    labels: Tensor,
    *,
    steps: int,
    step_size: float,
) -> Tensor:
    """Inputs, without a gradient, of the layers behind the first ``relus`` ReLUs, of a high loss.

    Cross entropy is climbed from the zonotope's centre by the sign of its gradient in the errors.
    The neurons' bounds are intervals. With no ReLU in front it is an attack on the pixels. Start
    and steps are the same in any number of processes.

    Args:
        layers: the layers from pixels to features.
        last: the layer from features to logits.
        relus: the number of ReLUs before the attacked layers.
        lower, upper: the box of pixels whose zonotope is searched.
        labels: one class per image.
        steps: the number of steps.
        step_size: the length of a step, in half widths of the zonotope's errors.
    """
    labels = integer_labels(labels, lower, "latent_attack")
    length = prefix_length(layers, relus)
    with torch.no_grad():
        prefix = interval_trace(layers[:length], lower, upper).steps
    shapes = [step.lower for step in prefix if isinstance(step.layer, nn.ReLU)]
    errors = [torch.zeros_like(like) for like in (lower, *shapes)]
    for _ in range(steps):
        moved = [error.requires_grad_() for error in errors]
        with torch.enable_grad():
            x = zonotope_point(prefix, lower, upper, moved)
            for layer in layers[length:]:
                x = layer(x)
            loss = F.cross_entropy(last(x), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, moved)
        errors = [
            (error + step_size * gradient.sign()).clamp(-1, 1).detach()
            for error, gradient in zip(moved, gradients, strict=True)
        ]
    with torch.no_grad():
        return zonotope_point(prefix, lower, upper, errors)


def instability(layers: Iterable[nn.Module], lower: Tensor, upper: Tensor) -> Tensor:
    """The sum of max(−l, 0) · max(u, 0) over the inputs of the first ReLU, by the mean image.

    It is 0 where every neuron is stable: where the relaxation loses nothing. l and u are intervals,
    with a gradient in the ``layers`` in front; ``lower`` and ``upper`` bound the first one's input.
    """
    front = itertools.takewhile(lambda layer: not isinstance(layer, nn.ReLU), layers)
    trace = interval_trace(front, lower, upper)
    return ((-trace.lower).clamp_min(0) * trace.upper.clamp_min(0)).flatten(1).sum(1).mean()
