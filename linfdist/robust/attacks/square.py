"""Square attack: random search without gradients."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from linfdist.nn import frozen
from linfdist.robust.attacks.margins import margins, verdict
from linfdist.robust.attacks.pgd import Attack, column
from linfdist.robust.boxes import attack_box
from linfdist.robust.checks import Classifier, check_finite, check_images, radius
from linfdist.system.inputs import checked_generator, real
from linfdist.system.values import whole

# The queries, out of 10,000, after which the squares' area is halved  [Andriushchenko2020].
HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@torch.inference_mode(False)
def square_attack(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Fraction | float | Tensor,
    *,
    num_queries: int = 1000,
    p_init: float = 0.8,
    generator: torch.Generator | None = None,
) -> Attack:
    """Search squares of ± eps at random for a larger p = ∞ margin  [Andriushchenko2020].

    The first query is the image with columns of ± eps, one sign per column and channel. Every other
    query takes the best image so far and sets a square at a random place to ± eps, one sign per
    channel. The search keeps the query if the margin max_{k≠y} logit_k − logit_y has grown. The
    square's area starts at ``p_init`` of the image's area. It is halved nine times on the paper's
    schedule, stretched to ``num_queries``. The attack uses no gradient, so none can mislead it.

    An image survives only if it is classified correctly at every query. Beaten images are not
    attacked further. At the end the whole batch is classified once more, and that verdict counts.

    Args:
        net: the network.
        images: pixels in [0, 1], shape (batch, channels, height, width).
        labels: one class per image.
        eps: radius in pixels, a number or a tensor with one radius per image.
        num_queries: number of queries per image.
        p_init: area of the first square, as a share of the image's area, in (0, 1].
        generator: source of random numbers, drawn on its device; None for torch's global generator.

    Raises:
        TypeError: the network is not a ``Classifier``, or an argument has the wrong type.
        ValueError: images, labels, eps, weights or a setting are invalid.
    """
    num_queries = whole(num_queries, "square_attack: num_queries", least=1)
    generator = checked_generator(generator, "square_attack")
    p_init = real(p_init, "square_attack", "p_init")
    if not 0 < p_init <= 1:
        raise ValueError(f"square_attack: p_init must be in (0, 1]; got {p_init}.")
    images, labels = check_images(net, images, labels, "square_attack")
    check_finite(net, "square_attack")
    eps = column(radius(eps, images, "square_attack"), images)
    lower, upper = attack_box(images, eps)
    device = images.device if generator is None else generator.device
    batch, channels, height, width = images.shape

    def signs(*shape: int) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator, device=device).bool()

    with frozen(net) as net, torch.no_grad():
        best, best_margin = images.clone(), margins(net, images, labels)
        for query in range(num_queries):
            rows = (best_margin < 0).nonzero().squeeze(1)
            if not len(rows):
                break
            # Drawn for all images, so that one image's numbers do not depend on the other images.
            if query == 0:
                up, inside = signs(batch, channels, 1, width), None
            else:
                side = _side(query / num_queries, p_init, height, width)
                up = signs(batch, channels, 1, 1)
                corner = torch.rand(
                    (batch, 2, 1), generator=generator, device=device, dtype=torch.float32
                )
                inside = _square(corner, side, height, width).to(images.device)[rows]
            tried = torch.where(up.to(images.device)[rows], upper[rows], lower[rows])
            if inside is not None:
                tried = torch.where(inside, tried, best[rows])
            reached = margins(net, tried, labels[rows])
            kept = reached > best_margin[rows]
            if query == 0:  # the search starts there, whatever its margin
                kept = torch.ones_like(kept)
            best[rows[kept]], best_margin[rows[kept]] = tried[kept], reached[kept]
        return verdict(net, best, labels, (lower, upper))


def _side(progress: float, p_init: float, height: int, width: int) -> int:
    """The side of a square whose area is the scheduled share of the image's area."""
    share = p_init / 2 ** sum(progress * 10_000 > number for number in HALVED_AFTER)
    return min(max(round(math.sqrt(share * height * width)), 1), height, width)


def _square(corner: Tensor, side: int, height: int, width: int) -> Tensor:
    """Which pixels lie in the square of each image, (batch, 1, height, width)."""
    axes = []
    for axis, size in enumerate((height, width)):
        first = (corner[:, axis] * (size - side + 1)).long().clamp_max(size - side)
        place = torch.arange(size, device=corner.device)
        axes.append((place >= first) & (place < first + side))
    return axes[0][:, None, :, None] & axes[1][:, None, None, :]
