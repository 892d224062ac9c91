"""The paper's two losses."""

from dataclasses import dataclass
from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor

from linfdist.config import check_fields


@dataclass(frozen=True, kw_only=True)
class HingeLoss:
    """``hinge_loss`` with ``threshold`` in pixels, for l_inf-dist Net.

    The paper's t of Table 6; the loss is 0 on an image that is certified by its margin at t / 2.
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
        if not 0 <= self.kappa <= 1:
            raise ValueError(
                f"IBPLoss: kappa must be in [0, 1]; got {self.kappa}. It weighs the clean loss: 1 "
                "trains on it alone, 0 on the worst case alone."
            )


def hinge_loss(logits: Tensor, labels: Tensor, threshold: float, mix: float = 1.0) -> Tensor:
    """mix · mean_b max_k [m_k]_+ + (1 − mix) · mean_{b,k} [m_k]_+.

    m_k = logit_k − logit_y + threshold and m_y = 0; the second mean is over all K classes, y among
    them. ``logits`` has shape (batch, K); the threshold is in the unit of the logits. mix = 1, the
    paper's multi-class hinge, is the default; the authors' code trains with 0.75 on MNIST and
    CIFAR-10 and with 1 on Fashion-MNIST.
    """
    column = labels.unsqueeze(1)
    margins = logits - logits.gather(1, column) + threshold
    margins = margins.scatter(1, column, 0.0).clamp_min(0)
    largest = margins.amax(1).mean()
    return largest if mix == 1 else mix * largest + (1 - mix) * margins.mean()


def ibp_loss(logits: Tensor, worst_margins: Tensor, labels: Tensor, kappa: float) -> Tensor:
    """κ CE(logits, y) + (1 − κ) CE(worst margins, y)  [Zhang2021, Eq. 22].

    Both have shape (batch, K); ``worst_margins`` bounds logit_k − logit_y from above, 0 at k = y.
    κ weighs the clean loss, as in the paper; the authors' code has it the other way round. A term
    of weight 0 is not computed.
    """
    if kappa == 0:
        return F.cross_entropy(worst_margins, labels)
    if kappa == 1:
        return F.cross_entropy(logits, labels)
    clean, worst = F.cross_entropy(logits, labels), F.cross_entropy(worst_margins, labels)
    return kappa * clean + (1 - kappa) * worst
