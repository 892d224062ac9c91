"""Projected gradient descent."""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from linfdist.nn import LogSumExp, frozen
from linfdist.robust.checks import Classifier, check_finite, check_images, norm, radius
from linfdist.system.inputs import checked_generator, finite
from linfdist.system.values import whole


@dataclass(frozen=True, eq=False)
class Attack:
    """``adversarial``: pixels like the images, within eps; ``survived``: bools, (batch,).

    Where the attack succeeded, the adversarial image is the one that the network gets wrong.
    """

    adversarial: Tensor
    survived: Tensor


@torch.inference_mode(False)
def pgd(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    eps: Fraction | float | Tensor,
    *,
    num_steps: int = 20,
    step_size: float | None = None,
    p: float | LogSumExp = math.inf,
    generator: torch.Generator | None = None,
) -> Attack:
    """Sign-gradient ascent of the cross entropy from a uniform random start in the ball.

    ``images`` are pixels in [0, 1], shape (batch, *input_shape); eps, a number or a tensor with one
    for each image, and ``step_size`` (default eps / 4) are in pixels. Each step is projected on the
    ball and on [0, 1]. An image survives only if it, the start and every iterate are classified
    right: the attack is given the best of its steps, while the authors' code looks at the last
    alone. Images that are beaten are not attacked further. p is that of the gradients and of the
    verdicts: keep ∞ to attack what is certified. The start is drawn on the generator's device.
    Under ``torch.inference_mode()`` the attack leaves that mode inside.

    Raises:
        TypeError: the network is no ``Classifier``, or an argument is of another type.
        ValueError: images, labels, eps, weights or a setting are not what they must be.
    """
    num_steps = whole(num_steps, "pgd: num_steps", least=0)
    if step_size is not None:
        step_size = finite(step_size, "pgd", "step_size")
        if step_size < 0:
            raise ValueError(f"pgd: step_size must be at least 0, in pixels; got {step_size}.")
    p, generator = norm(p, "pgd"), checked_generator(generator, "pgd")
    images, labels = check_images(net, images, labels, "pgd")
    check_finite(net, "pgd")
    eps = column(radius(eps, images, "pgd"), images)
    sizes = (eps / 4 if step_size is None else torch.full_like(eps, step_size)).to(images.dtype)
    device = images.device if generator is None else generator.device
    noise = torch.rand(images.shape, generator=generator, device=device, dtype=images.dtype)
    lower, upper = ball(images, eps)
    start = (2 * noise.to(images.device) - 1) * eps.to(images.dtype)
    adversarial = (images + start).clamp(lower, upper)

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
                moved = x.detach() + sizes[alive] * gradient.sign()
                kept = alive[holds]
                adversarial[kept] = moved[holds].clamp(lower[kept], upper[kept])
    return Attack(adversarial, survived)


def column(eps: Tensor, images: Tensor) -> Tensor:
    """Radii as ``radius`` gives them, one for each image, broadcastable to the images."""
    return eps.expand(len(images)).view(len(images), *[1] * (images.ndim - 1))


def ball(images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    """[x − eps, x + eps] in [0, 1], to nearest: inside the certificates' box, rounded outward."""
    exact = images.double()
    return (exact - eps).to(images.dtype).clamp(0, 1), (exact + eps).to(images.dtype).clamp(0, 1)
