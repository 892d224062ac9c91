"""How the compared methods train their networks on certified bounds."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from linfdist.config import check_fields
from linfdist.data import Augmentation
from linfdist.optim.schedules import Epochs
from linfdist.robust import HingeLoss

Bound = Literal["ibp", "crown_ibp", "loss_fusion", "cap", "pvt", "hinge"]


@dataclass(frozen=True, kw_only=True)
class BoundTrainConfig:
    """Adam on κ CE(logits) + (1 − κ) CE(bounds) over the pixel box of a radius that grows.

    ``epochs``: e1 on clean images, e2 in which eps grows linearly from 0 to ``eps_train``, κ falls
    from ``kappa[0]`` to ``kappa[1]`` and β from 1 to 0, and e3 at the end of all three. ``lr``
    is multiplied by ``lr_factor`` after each epoch of ``lr_drops``.

    ``bound``: of the margins, by intervals, "ibp" [Gowal2018], by β CROWN + (1 − β) intervals,
    "crown_ibp" [Zhang2020], by the convex outer polytope, "cap" [WongKolter2018], or by lines that
    a verifier proposes, trained with the network, "pvt" [Dvijotham2018]; of the cross entropy
    itself by the mixture, "loss_fusion" [Xu2020]; or "hinge", for networks of Lipschitz
    logits: ``hinge_loss`` at ``threshold`` pixels, with neither radius nor κ  [Anil2019].
    """

    epochs: Epochs
    bound: Bound
    eps_train: Fraction = Fraction(0)
    threshold: Fraction | None = None
    kappa: tuple[float, float] = (1.0, 0.5)
    lr: float = 5e-4
    lr_drops: tuple[int, ...] = ()
    lr_factor: float = 0.1
    batch_size: int = 256
    augmentation: Augmentation = field(default_factory=Augmentation)
    train_images: int | None = None
    matmul_precision: Literal["highest", "high", "medium"] = "highest"

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.epochs) < 0 or sum(self.epochs) == 0:
            raise ValueError(
                "BoundTrainConfig: epochs must be three numbers (e1, e2, e3) of at least 0, not "
                f"all 0; got {self.epochs}."
            )
        if self.batch_size < 1:
            raise ValueError(
                f"BoundTrainConfig: batch_size must be at least 1; got {self.batch_size}."
            )
        for name in ("lr", "lr_factor"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"BoundTrainConfig: {name} must be at least 0; got {getattr(self, name)}."
                )
        if not all(0 <= kappa <= 1 for kappa in self.kappa):
            raise ValueError(f"BoundTrainConfig: kappa must be in [0, 1]; got {self.kappa}.")
        if (self.bound == "hinge") != (self.threshold is not None):
            raise ValueError(
                'BoundTrainConfig: threshold must be given for bound="hinge" and for no other; got '
                f"bound={self.bound!r} and threshold={self.threshold}."
            )
        if self.threshold is not None:
            HingeLoss(threshold=self.threshold)
        if not self.eps_train >= 0:
            raise ValueError(
                f"BoundTrainConfig: eps_train must be at least 0, in pixels; got {self.eps_train}."
            )

    def share(self, done: float) -> float:
        """How far the ramp is after ``done`` epochs, from 0 to 1."""
        e1, e2, _ = self.epochs
        if e2 == 0:
            return float(done >= e1)
        return min(1.0, max(0.0, (done - e1) / e2))

    def lr_at(self, done: float) -> float:
        """The learning rate after ``done`` epochs."""
        return self.lr * math.prod(self.lr_factor for drop in self.lr_drops if done >= drop)
