"""Projected gradient descent."""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from linfdist.nn import frozen
from linfdist.robust.checks import check_finite, check_images, radius
from linfdist.robust.protocols import Classifier


@dataclass(frozen=True, eq=False)
class Attack:
    """``adversarial``: pixels like the images, within eps; ``survived``: bools, (batch,).

    Where the attack succeeded, the adversarial image is the one that the network gets wrong.
    """

    adversarial: Tensor
    survived: Tensor


def pgd(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Fraction | float,
    *,
    num_steps: int = 20,
    step_size: float | None = None,
    p: float = math.inf,
    generator: torch.Generator | None = None,
) -> Attack:
    """Sign-gradient ascent of the cross entropy from a uniform random start in the ball.

    ``images`` are pixels in [0, 1], shape (batch, *input_shape); eps and ``step_size`` (default
    eps / 4) are in pixels. Each step is projected on the ball and on [0, 1]. An image survives only
    if it, the start and every iterate are classified right: the attack is given the best of its
    steps, while the authors' code looks at the last alone. Images that are beaten are not attacked
    further. p is that of the gradients and of the verdicts: keep ∞ to attack what is certified. The
    start is drawn on the generator's device.
    """
    check_images(net, images, labels, "pgd")
    check_finite(net, "pgd")
    eps = float(radius(eps, images, "pgd"))
    step_size = eps / 4 if step_size is None else step_size
    device = images.device if generator is None else generator.device
    noise = torch.rand(images.shape, generator=generator, device=device, dtype=images.dtype)
    lower, upper = ball(images, eps)
    adversarial = (images + (2 * noise.to(images.device) - 1) * eps).clamp(lower, upper)

    with frozen(net) as net:
        with torch.no_grad():
            survived = net(images, p).argmax(1) == labels
        adversarial[~survived] = images[~survived]
        for step in range(num_steps + 1):
            alive = survived.nonzero().squeeze(1)
            if not len(alive):
                break
            x = adversarial[alive].requires_grad_(True)
            with torch.enable_grad():
                logits = net(x, p)
                loss = F.cross_entropy(logits, labels[alive], reduction="sum")
                gradient = torch.autograd.grad(loss, x)[0] if step < num_steps else None
            holds = logits.detach().argmax(1) == labels[alive]
            survived[alive] = holds
            if gradient is not None:
                moved = x.detach() + step_size * gradient.sign()
                kept = alive[holds]
                adversarial[kept] = moved[holds].clamp(lower[kept], upper[kept])
    return Attack(adversarial, survived)


def ball(images: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """[x − eps, x + eps] in [0, 1], to nearest: inside the certificates' box, rounded outward."""
    exact = images.double()
    return (exact - eps).to(images.dtype).clamp(0, 1), (exact + eps).to(images.dtype).clamp(0, 1)
