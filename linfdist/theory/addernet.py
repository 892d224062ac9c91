"""A small AdderNet, its certified radius and an attack on it: Appendix C in numbers.

AdderNet [Chen2020] replaces the dot product of a conventional net by −‖x − w‖_1 and keeps batch
normalisation and ReLU. The nets here are fully connected and small enough for digits. They differ
from the original in three ways:

- Adam trains them with the true gradients, which suffices at this size. The original replaces the
  gradient with respect to w by x − w, and the one with respect to x by x − w clipped to [−1, 1].
- The original scales each layer's step to its gradient's norm.
- All layers are replaced here. The original leaves the first and the last layer conventional.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.ops import lp_dist
from linfdist.robust.attacks.pgd import Attack
from linfdist.robust.boxes import attack_box
from linfdist.robust.checks import check_labels
from linfdist.system.inputs import (
    check_function,
    finite,
    float_tensor,
    integer_labels,
    positive,
    wholes,
)
from linfdist.system.values import seed as checked_seed
from linfdist.system.values import shown, whole


class AdderLinear(nn.Module):
    """−‖x − w_j‖_1 for every row w_j of ``weight``, which starts as N(0, 1) [Chen2020].

    x of shape (batch, in_features) becomes (batch, out_features). In l_1 each output is
    1-Lipschitz and the layer is out_features-Lipschitz. In l_inf the layer is
    in_features-Lipschitz. The entries of the Jacobian are ±1 almost everywhere, and the Jacobian
    then has exactly these norms.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        in_features = whole(in_features, "AdderLinear: in_features", least=1)
        out_features = whole(out_features, "AdderLinear: out_features", least=1)
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.randn(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        return -lp_dist(x, self.weight, 1.0)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def adder_net(widths: Sequence[int]) -> nn.Sequential:
    """Layers of ``AdderLinear``, each followed by batch normalisation, with ReLU between them.

    ``widths`` is (inputs, hidden, …, classes); images (batch, ...) are flattened, and the result
    has shape (batch, classes). Weights come from torch's global generator.
    """
    return _normalized(AdderLinear, widths, "adder_net")


def conventional_net(widths: Sequence[int]) -> nn.Sequential:
    """``adder_net`` with dot products in place of distances; everything else is the same."""
    return _normalized(nn.Linear, widths, "conventional_net")


def _normalized(
    layer: Callable[[int, int], nn.Module], widths: Sequence[int], caller: str
) -> nn.Sequential:
    widths = wholes(widths, caller, "widths")
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"{caller}: widths must be at least 2 positive numbers, from the inputs to the "
            f"classes; got {tuple(widths)}."
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [layer(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])  # logits may be negative


def train(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 0.05,
    seed: int = 0,
) -> list[float]:
    """Train ``net`` in place by Adam on the cross entropy; return each epoch's mean loss.

    The last images of an epoch are left out if they do not fill a batch, because batch
    normalisation needs more than one. ``net`` is left in evaluation mode.

    Args:
        net: the network to train.
        images: pixels.
        labels: the classes of the images.
        epochs: the number of epochs.
        batch_size: images per step, at least 2.
        lr: the first learning rate; it falls to 0 along a half cosine.
        seed: the seed of the order of the images.

    Raises TypeError and ValueError for invalid arguments.
    """
    _check_module(net, "train")
    images = float_tensor(images, "train", "images")
    labels = integer_labels(labels, images, "train")
    epochs = whole(epochs, "train: epochs", least=1)
    batch_size = whole(batch_size, "train: batch_size", least=2)
    if batch_size > len(images):
        raise ValueError(
            f"train: batch_size must be at most {len(images)}, the number of images; got "
            f"{batch_size}."
        )
    lr, seed = positive(lr, "train", "lr"), checked_seed(seed, "train")
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator, device="cpu")
        total = 0.0
        batches = order[: len(order) // batch_size * batch_size].split(batch_size)
        for batch in batches:
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        schedule.step()
        losses.append(total / len(batches))
    net.eval()
    return losses


def lipschitz_bound(net: nn.Sequential, norm: float) -> float:
    """An upper bound of an ``adder_net``'s Lipschitz constant in l_1 or l_inf, from pixels.

    The scales of a batch normalisation are s_j = |γ_j| / √(running_var_j + ε). Row j of a layer's
    Jacobian has entries ±s_j, or 0 behind a ReLU. The product of the Jacobians' absolute values has
    the norm Π_l Σ_j s_j in l_1, and d Π_{l<L} Σ_j s_j · max_j s_j in l_inf, with the maximum over
    the last layer. The bound is exact for one layer. With more layers signs may cancel, and the
    bound ignores this.

    Raises ValueError for another norm or another kind of net.
    """
    inputs, inner, last = _gains(net, norm, "lipschitz_bound")
    return inner * float(last.sum() if norm == 1 else inputs * last.max())


def certified_radius(net: nn.Sequential, images: Tensor, labels: Tensor, norm: float) -> Tensor:
    """A radius in l_1 or l_inf within which an ``adder_net`` provably keeps its class: (batch,).

    The radius is min_k (logit_y − logit_k) / ((s_y + s_k) c), where s are the scales of the last
    layer and c is the rest of ``lipschitz_bound``: the margin divided by a Lipschitz constant that
    is not 1. It is 0 if the image is misclassified. ``images`` are pixels.

    Raises the errors of ``lipschitz_bound``.
    """
    inputs, inner, last = _gains(net, norm, "certified_radius")
    images = float_tensor(images, "certified_radius", "images")
    labels = integer_labels(labels, images, "certified_radius")
    check_labels(labels, len(last), "certified_radius")
    with torch.no_grad():
        logits = net(images)
    column = labels.unsqueeze(1)
    slopes = (last + last[column]) * inner * (inputs if norm == math.inf else 1)
    ratios = (logits.gather(1, column) - logits) / slopes
    return ratios.scatter(1, column, math.inf).amin(1).clamp_min(0)


def _gains(net: nn.Sequential, norm: float, caller: str) -> tuple[int, float, Tensor]:
    """The number of inputs, Π_{l<L} Σ_j s_j, and the last layer's scales s."""
    _check_norm(norm, caller)
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"{caller}: net must be an adder_net; got {shown(net)}.")
    adders = [module for module in net if isinstance(module, AdderLinear)]
    norms = [module for module in net if isinstance(module, nn.BatchNorm1d)]
    if not adders or len(adders) != len(norms):
        raise ValueError(
            f"{caller}: net must be an adder_net, each AdderLinear followed by a BatchNorm1d; got "
            f"{len(adders)} of the first and {len(norms)} of the second."
        )
    scales = [_scales(layer) for layer in norms]
    return adders[0].in_features, math.prod(float(s.sum()) for s in scales[:-1]), scales[-1]


def _scales(layer: nn.BatchNorm1d) -> Tensor:
    """|γ| / √(running variance + ε), one per output."""
    assert layer.running_var is not None  # adder_net's layers track it
    return layer.weight.detach().abs() * (layer.running_var + layer.eps).rsqrt()


@torch.inference_mode(False)
def attack(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: float,
    num_steps: int = 20,
) -> Attack:
    """Attack by steepest ascent of the cross entropy, within eps in l_1 or l_inf and in [0, 1].

    The ascent starts at the images. An image survives only if the image and all iterates are
    classified right.

    - In l_inf every pixel moves by eps / 4 per step along the sign of its gradient, as in
      ``linfdist.robust.pgd``.
    - In l_1 one pixel moves by eps / num_steps per step: the one with the largest gradient among
      those that are not yet at 0 or 1. The path length, and so the distance, stays within eps.

    Args:
        function: takes pixels, (batch, ...), to logits.
        images: pixels.
        labels: the classes of the images.
        eps: the radius, at least 0.
        norm: 1 or ∞.
        num_steps: the number of steps.

    Raises TypeError and ValueError for invalid arguments: another norm, a negative eps, labels that
    are not integers.
    """
    _check_norm(norm, "attack")
    check_function(function, "attack")
    if not (eps := finite(eps, "attack", "eps")) >= 0:
        raise ValueError(f"attack: eps must be at least 0, in pixels; got {eps}.")
    num_steps = whole(num_steps, "attack: num_steps", least=1)
    images = float_tensor(images, "attack", "images")
    images, labels = images.detach().clone(), integer_labels(labels, images, "attack")
    lower, upper = attack_box(images, eps)
    adversarial, beaten = images.clone(), images.clone()
    survived = torch.ones_like(labels, dtype=torch.bool)
    for _ in range(num_steps + 1):
        x = adversarial.requires_grad_(True)
        logits = function(x)  # with gradients: leaving inference mode turns them on
        wrong = survived & (logits.detach().argmax(1) != labels)
        beaten[wrong] = x.detach()[wrong]
        survived &= ~wrong
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        step = eps / 4 if norm == math.inf else eps / num_steps
        moved = x.detach() + step * gradient.sign()
        if norm == 1:
            moved = _largest_moved(x.detach(), moved.clamp(0, 1), gradient)
        adversarial = moved.clamp(lower, upper)
    beaten[survived] = x.detach()[survived]
    return Attack(beaten, survived)


def _check_norm(norm: object, caller: str) -> None:
    if isinstance(norm, Tensor) or norm not in (1, math.inf):
        raise ValueError(f"{caller}: norm must be 1 or inf; got {norm}.")


def _check_module(net: object, caller: str) -> None:
    if not isinstance(net, nn.Module):
        raise TypeError(f"{caller}: net must be a network; got {shown(net)}.")


def _largest_moved(x: Tensor, moved: Tensor, gradient: Tensor) -> Tensor:
    """x with one entry moved: among those that can move, the one with the largest gradient."""
    can_move = (moved != x).flatten(1)
    chosen = torch.where(can_move, gradient.flatten(1).abs(), -1).argmax(1, keepdim=True)
    flat = x.flatten(1)
    return flat.scatter(1, chosen, moved.flatten(1).gather(1, chosen)).view_as(x)


def survives_one_pixel(
    function: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    """Whether an image stays right if any one value is set to 0 or to 1: bools, (batch,).

    Every choice is tried, without gradients. Each is within l_1 distance 1. Cost: two forward
    passes per value.
    """
    check_function(function, "survives_one_pixel")
    images = float_tensor(images, "survives_one_pixel", "images")
    labels = integer_labels(labels, images, "survives_one_pixel")
    survived = torch.ones_like(labels, dtype=torch.bool)
    with torch.no_grad():
        for position in range(images.shape[1:].numel()):
            for value in (0.0, 1.0):
                changed = images.flatten(1).clone()
                changed[:, position] = value
                survived &= function(changed.view_as(images)).argmax(1) == labels
    return survived
