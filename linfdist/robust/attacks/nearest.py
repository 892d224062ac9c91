"""The distance of the nearest beaten image that attacks find."""

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from linfdist.nn import frozen
from linfdist.robust.attacks.ensemble import GUIDED, AttackSetting, check_attacks, strongest
from linfdist.robust.attacks.margins import margins
from linfdist.robust.checks import Classifier, check_finite, check_images
from linfdist.system.inputs import checked_generator, pixel_radius
from linfdist.system.values import shown

HALVINGS = 12


@torch.inference_mode(False)
def attacked_radius(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    radii: Sequence[Fraction | float],
    *,
    attacks: Mapping[str, AttackSetting] = GUIDED,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The distance of the nearest beaten image that ``strongest`` finds at any of the ``radii``.

    Small radii are attacked first, and a beaten image is not attacked further. Bisection then moves
    the beaten image nearer: it cuts the image to ever smaller balls as long as it stays beaten. The
    result is therefore an upper bound of the true radius.

    Args:
        net: the network.
        images: pixels in [0, 1], shape (batch, *input_shape).
        labels: one class per image.
        radii: the radii to attack at, in pixels.
        attacks: ``GUIDED`` for l_inf-dist nets, or ``CONVENTIONAL`` for networks without a p.
        generator: source of random numbers; None for torch's global generator.

    Returns:
        Distances in pixels, float64, shape (batch,): infinite for an image that no attack beat, 0
        for a misclassified image.

    Raises:
        TypeError: the network is not a ``Classifier``, or an argument has the wrong type.
        ValueError: images, labels, weights or a radius are invalid.
    """
    check_attacks(attacks, "attacked_radius")
    generator = checked_generator(generator, "attacked_radius")
    radii = _exact(radii)
    images, labels = check_images(net, images, labels, "attacked_radius")
    check_finite(net, "attacked_radius")
    radius = torch.full((len(images),), math.inf, dtype=torch.float64, device=images.device)
    for eps in sorted(radii):
        rows = radius.isinf().nonzero().squeeze(1)
        if not len(rows):
            break
        some = images[rows], labels[rows]
        attack = strongest(net, *some, eps, attacks=attacks, generator=generator)
        nearer = _nearer(net, *some, attack.adversarial)
        radius[rows] = nearer.masked_fill(attack.survived, math.inf)
    return radius


def _exact(radii: Sequence[Fraction | float]) -> list[Fraction]:
    """The radii to attack at, as rational numbers; at least one is required."""
    single = isinstance(radii, str | Mapping) or (isinstance(radii, Tensor) and radii.ndim != 1)
    if single or not isinstance(radii, Iterable):
        raise TypeError(
            f"attacked_radius: radii must be a sequence of radii; got {shown(radii)}. A single one "
            "is [0.1]."
        )
    exact = [pixel_radius(value, "attacked_radius", "each of radii") for value in radii]
    if not exact:
        raise ValueError("attacked_radius: radii must hold at least one radius; got none.")
    return exact


def _nearer(net: Classifier, images: Tensor, labels: Tensor, beaten: Tensor) -> Tensor:
    """The least distance at which a beaten image, cut to smaller balls, was seen to stay beaten."""

    def distance(x: Tensor) -> Tensor:
        return (x.double() - images.double()).abs().flatten(1).amax(1)

    with frozen(net) as net, torch.no_grad():
        high = distance(beaten).where(margins(net, images, labels) < 0, 0.0)
        low = torch.zeros_like(high)
        for _ in range(HALVINGS):
            ball = ((low + high) / 2).to(images.dtype).view(-1, *[1] * (images.ndim - 1))
            cut = beaten.clamp(images - ball, images + ball)
            holds = margins(net, cut, labels) >= 0
            high = torch.where(holds, distance(cut).minimum(high), high)
            low = torch.where(holds, low, (low + high) / 2)
    return high
