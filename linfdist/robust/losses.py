"""The paper's two losses, and two losses with a decreasing weight of the clean loss."""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from linfdist.system.inputs import finite, integer_labels, pixel_radius, positive, real
from linfdist.system.serialise import check_fields
from linfdist.system.values import shown


@dataclass(frozen=True, kw_only=True)
class HingeLoss:
    """``hinge_loss`` with ``threshold`` in pixels, for l_inf-dist Net.

    ``threshold`` is t in the paper's Table 6. The loss is 0 on an image that its margin certifies
    at t / 2.
    """

    threshold: Fraction
    mix: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, ranged=("mix",))
        if not self.threshold > 0:
            raise ValueError(
                f"HingeLoss: threshold must be above 0; got {self.threshold}. It is in pixels of "
                "[0, 1]; the paper's is three times eps on MNIST."
            )
        if not 0 <= self.mix <= 1:
            raise ValueError(
                f"HingeLoss: mix must be in [0, 1]; got {self.mix}. It weighs the largest "
                "violation: 1 is the paper's loss, 0 the mean over classes."
            )


@dataclass(frozen=True, kw_only=True)
class IBPLoss:
    """``ibp_loss`` at ``eps_train`` in pixels, for l_inf-dist Net+MLP  [Zhang2021, Table 6]."""

    eps_train: Fraction
    kappa: float

    def __post_init__(self) -> None:
        check_fields(self, ranged=("kappa",))
        if not self.eps_train >= 0:
            raise ValueError(
                f"IBPLoss: eps_train must be at least 0; got {self.eps_train}. It is a radius in "
                "pixels of [0, 1], such as Fraction(8, 255)."
            )
        pixel_radius(self.eps_train, "IBPLoss", "eps_train")
        if not 0 <= self.kappa <= 1:
            raise ValueError(
                f"IBPLoss: kappa must be in [0, 1]; got {self.kappa}. It weighs the clean loss: 1 "
                "trains on it alone, 0 on the worst case alone."
            )


Weights = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class MixtureLoss:
    """``mixture_loss`` with ``threshold`` in pixels, for l_inf-dist Net  [Zhang2022].

    The clipped hinge is 0 on an image that its margin certifies at threshold / 2, and 1 on a
    misclassified image. The learnable s has no decay and belongs to neither the network nor its
    certificates.

    Args:
        threshold: threshold of the clipped hinge.
        weights: λ of the cross entropy: for e1 epochs, then at the start and at the end of an
            exponential fall over e2 (``weight_at``).
        scale: initial value of s.
        scale_rate: learning rate of s as a multiple of the weights' learning rate.
    """

    threshold: Fraction
    weights: Weights
    scale: float = 1.0
    scale_rate: float = 0.2

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.threshold > 0:
            raise ValueError(
                f"MixtureLoss: threshold must be above 0; got {self.threshold}. It is in pixels of "
                "[0, 1]; the authors' is six times eps on CIFAR-10."
            )
        _check_weights("MixtureLoss", self.weights)
        if not 0 < self.scale < math.inf:
            raise ValueError(
                f"MixtureLoss: scale must be above 0 and finite; got {self.scale}. It multiplies "
                "the logits of the cross entropy."
            )
        if not 0 <= self.scale_rate < math.inf:
            raise ValueError(
                f"MixtureLoss: scale_rate must be at least 0 and finite; got {self.scale_rate}. It "
                "is a multiple of lr; 0 keeps the scale where it starts."
            )


@dataclass(frozen=True, kw_only=True)
class GatedLoss:
    """``gated_loss`` at ``eps_train`` in pixels, for l_inf-dist Net+MLP.

    ``weights`` are λ of the clean cross entropy, as in ``MixtureLoss``. Net+MLP needs no scale of
    its logits, because the weights of its head act as a scale.
    """

    eps_train: Fraction
    weights: Weights

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.eps_train >= 0:
            raise ValueError(
                f"GatedLoss: eps_train must be at least 0; got {self.eps_train}. It is a radius in "
                "pixels of [0, 1], such as Fraction(8, 255)."
            )
        pixel_radius(self.eps_train, "GatedLoss", "eps_train")
        _check_weights("GatedLoss", self.weights)


Loss = HingeLoss | IBPLoss | MixtureLoss | GatedLoss


def _check_weights(owner: str, weights: Weights) -> None:
    """Refuse weights of the cross entropy that are not a valid schedule."""
    if len(weights) != 3 or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(
            f"{owner}: weights must be three finite numbers of at least 0, for e1 and from the "
            f"start to the end of e2; got {weights}."
        )
    if (weights[1] == 0) != (weights[2] == 0):
        raise ValueError(
            f"{owner}: weights must end above 0 if e2 starts above 0, and at 0 if e2 starts at 0, "
            f"because they fall exponentially; got {weights}."
        )


def hinge_loss(
    logits: Tensor, labels: Tensor, threshold: float | Tensor, mix: float = 1.0
) -> Tensor:
    """mix · mean_b max_k [m_k]_+ + (1 − mix) · mean_{b,k} [m_k]_+.

    m_k = logit_k − logit_y + threshold and m_y = 0. The second mean is over all K classes including
    y. ``logits`` has shape (batch, K). The threshold, a number or a 0-d tensor, is in the unit of
    the logits. The default mix = 1 is the paper's multi-class hinge. The authors' code trains with
    0.75 on MNIST and CIFAR-10 and with 1 on Fashion-MNIST.

    Raises:
        TypeError: labels are not integers, or another argument is not a tensor or number.
        ValueError: a shape, the threshold or mix is invalid.
    """
    labels = _labels_of(logits, labels, "hinge_loss")
    if not (isinstance(threshold, Tensor) and threshold.ndim == 0):
        threshold = finite(threshold, "hinge_loss", "threshold")
    mix = _weight(mix, "hinge_loss", "mix")
    column = labels.unsqueeze(1)
    margins = logits - logits.gather(1, column) + threshold
    margins = margins.scatter(1, column, 0.0).clamp_min(0)
    largest = margins.amax(1).mean()
    return largest if mix == 1 else mix * largest + (1 - mix) * margins.mean()


def ibp_loss(logits: Tensor, worst_margins: Tensor, labels: Tensor, kappa: float) -> Tensor:
    """κ CE(logits, y) + (1 − κ) CE(worst margins, y)  [Zhang2021, Eq. 22].

    ``logits`` and ``worst_margins`` have shape (batch, K); ``worst_margins`` bounds
    logit_k − logit_y from above and is 0 at k = y. κ weighs the clean loss, as in the paper; in the
    authors' code κ weighs the worst case. A term of weight 0 is not computed.

    Raises:
        TypeError: labels are not integers, or another argument is not a tensor or number.
        ValueError: a shape or κ is invalid.
    """
    kappa = _weight(kappa, "ibp_loss", "kappa")
    labels = _labels_of(logits, labels, "ibp_loss")
    _check_margins(logits, worst_margins, "ibp_loss")
    if kappa == 0:
        return F.cross_entropy(worst_margins, labels)
    if kappa == 1:
        return F.cross_entropy(logits, labels)
    clean, worst = F.cross_entropy(logits, labels), F.cross_entropy(worst_margins, labels)
    return kappa * clean + (1 - kappa) * worst


def clipped_hinge_loss(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """mean_b min(1, [max_{k≠y} (logit_k − logit_y) / threshold + 1]_+).

    ``logits`` has shape (batch, K); the threshold is in the unit of the logits. A misclassified
    image, or one on the border of its class, contributes 1 and has no gradient.
    """
    labels = _labels_of(logits, labels, "clipped_hinge_loss")
    threshold = positive(threshold, "clipped_hinge_loss", "threshold")
    column = labels.unsqueeze(1)
    margins = (logits - logits.gather(1, column)).scatter(1, column, -math.inf)
    violation = (margins.amax(1) / threshold + 1).clamp_min(0)
    # Not clamp_max, because its gradient at exactly 1 is 1.
    return torch.where(violation >= 1, torch.ones_like(violation), violation).mean()


def mixture_loss(
    logits: Tensor, labels: Tensor, threshold: float, weight: float, scale: Tensor | float
) -> Tensor:
    """``clipped_hinge_loss(logits, y, threshold)`` + λ CE(s · logits, y)  [Zhang2022].

    λ is ``weight``, and s is ``scale``, which acts only on the cross entropy. Misclassified images
    have a gradient only through the cross entropy.

    Args:
        logits: shape (batch, K).
        labels: one class per image.
        threshold: threshold of the clipped hinge, in the unit of the logits.
        weight: λ.
        scale: s, a number or a 0-d tensor.
    """
    labels = _labels_of(logits, labels, "mixture_loss")
    threshold = positive(threshold, "mixture_loss", "threshold")
    weight = _share(weight, "mixture_loss")
    if not (isinstance(scale, Tensor) and scale.ndim == 0):
        scale = finite(scale, "mixture_loss", "scale")
    clean = F.cross_entropy(scale * logits, labels)
    return clipped_hinge_loss(logits, labels, threshold) + weight * clean


def gated_loss(logits: Tensor, worst_margins: Tensor, labels: Tensor, weight: float) -> Tensor:
    """mean_b [argmax logits = y] CE(worst margins, y) + λ CE(logits, y), λ = ``weight``.

    ``logits`` and ``worst_margins`` have shape (batch, K); ``worst_margins`` bounds
    logit_k − logit_y from above and is 0 at k = y. A misclassified image has no robust loss, only
    the clean cross entropy.
    """
    labels = _labels_of(logits, labels, "gated_loss")
    _check_margins(logits, worst_margins, "gated_loss")
    weight = _share(weight, "gated_loss")
    worst = F.cross_entropy(worst_margins, labels, reduction="none")
    worst = torch.where(logits.argmax(1) == labels, worst, torch.zeros_like(worst))
    return worst.mean() + weight * F.cross_entropy(logits, labels)


def _labels_of(logits: Tensor, labels: Tensor, caller: str) -> Tensor:
    """Labels for rows of logits; the check reads only metadata."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            f"{caller}: logits must be a tensor of floating point; got {shown(logits)}."
        )
    if logits.ndim != 2:
        raise ValueError(
            f"{caller}: logits must have shape (batch, classes); got {tuple(logits.shape)}."
        )
    return integer_labels(labels, logits, caller, "row of logits")


def _check_margins(logits: Tensor, worst_margins: Tensor, caller: str) -> None:
    """Refuse margins that do not match these logits; the check reads only metadata."""
    if not isinstance(worst_margins, Tensor):
        raise TypeError(f"{caller}: worst_margins must be a tensor; got {shown(worst_margins)}.")
    if worst_margins.shape != logits.shape:
        raise ValueError(
            f"{caller}: worst_margins must have the shape of logits, {tuple(logits.shape)}; got "
            f"{tuple(worst_margins.shape)}."
        )


def _share(value: object, caller: str) -> float:
    """λ, the weight of a clean loss added to another loss: finite and at least 0."""
    weight = finite(value, caller, "weight")
    if not weight >= 0:
        raise ValueError(f"{caller}: weight must be at least 0; got {weight}.")
    return weight


def _weight(value: object, caller: str, name: str) -> float:
    """A weight in [0, 1]."""
    weight = real(value, caller, name)
    if not 0 <= weight <= 1:
        raise ValueError(f"{caller}: {name} must be in [0, 1]; got {weight}.")
    return weight
