"""Projected gradient descent."""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from linfdist.nn import LogSumExp, frozen
from linfdist.robust.boxes import attack_box
from linfdist.robust.checks import Classifier, check_finite, check_images, norm, radius
from linfdist.system.inputs import checked_generator, finite
from linfdist.system.values import whole


@dataclass(frozen=True, eq=False)
class Attack:
    """``adversarial``: pixels like the images, within eps; ``survived``: bools, (batch,).

    Where the attack succeeded, the network misclassifies the adversarial image.
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
    """Ascend the cross entropy by signs of gradients, from a uniform random start in the ball.

    Each step is projected on the ball and on [0, 1]. An image survives only if the image itself,
    the start and every iterate are classified correctly: the best of the steps counts, while the
    authors' code checks only the last step. Beaten images are not attacked further. Under
    ``torch.inference_mode()`` the attack leaves that mode inside.

    Args:
        net: the network.
        images: pixels in [0, 1], shape (batch, *input_shape).
        labels: one class per image.
        eps: radius in pixels, a number or a tensor with one radius per image.
        num_steps: number of steps.
        step_size: size of a step in pixels; None for eps / 4.
        p: p of the gradients and of the verdicts. Keep ∞ to attack the certified network.
        generator: source of random numbers, drawn on its device; None for torch's global generator.

    Raises:
        TypeError: the network is not a ``Classifier``, or an argument has the wrong type.
        ValueError: images, labels, eps, weights or a setting are invalid.
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
    lower, upper = attack_box(images, eps)
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
    """Radii from ``radius``, expanded to one per image and broadcastable to the images."""
    return eps.expand(len(images)).view(len(images), *[1] * (images.ndim - 1))
