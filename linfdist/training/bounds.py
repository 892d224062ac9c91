"""How the compared methods train their networks on certified bounds."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines import BaselineNet, CapNet, PvtNet
from linfdist.data import Augmentation
from linfdist.optim.schedules import Epochs
from linfdist.robust import HingeLoss, hinge_loss, ibp_loss
from linfdist.system.serialise import check_fields

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


class _BoundObjective(nn.Module):
    """A compared method's network and loss in one."""

    def __init__(self, net: BaselineNet, config: BoundTrainConfig) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.lipschitz = net.lipschitz if config.bound == "hinge" else math.nan

    def forward(
        self, pixels: Tensor, labels: Tensor, eps: float, kappa: float, beta: float
    ) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits; no images have the loss 0, on which all weights depend."""
        if self.config.bound == "hinge":
            logits = self.net(pixels)
            threshold = float(self.config.threshold) * self.lipschitz
            loss = hinge_loss(logits, labels, threshold)
            return loss if len(labels) else logits.sum(), logits
        if kappa == 1:  # the warm-up: a bound of weight 0 is not computed
            logits = self.net(pixels)
            loss = F.cross_entropy(logits, labels) if len(labels) else logits.sum()
            return loss + self.nothing(), logits
        lower, upper = (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)
        if self.config.bound == "cap":
            logits = self.net(pixels)
        else:
            trace = self.net.trace(lower, upper, pixels)
            logits = self.net.last(trace.clean)
        if not len(labels):
            return logits.sum() + self.nothing(), logits
        if self.config.bound == "loss_fusion":
            worst = self.net.loss_bound(trace, labels, beta).mean()
            return kappa * F.cross_entropy(logits, labels) + (1 - kappa) * worst, logits
        if self.config.bound == "cap":
            margins = self.net.worst_case_margins_on_box(lower, upper, labels)
        elif self.config.bound == "pvt":
            margins = self.net.proven_margins(trace, labels)
        else:
            margins = self.net.margins(trace, labels, beta)
        return ibp_loss(logits, margins, labels, kappa), logits

    def nothing(self) -> Tensor | float:
        """0, on which the weights of a verifier depend, where no bound is computed."""
        if not isinstance(self.net, PvtNet):
            return 0.0
        return sum(weight.sum() * 0 for weight in self.net.verifier.parameters())


class BoundRecipe:
    """A compared method's: eps grows, κ and β fall, Adam's rate drops. As ``LinfDistRecipe``."""

    def __init__(self, net: BaselineNet, config: BoundTrainConfig) -> None:
        for bound, kind in (("cap", CapNet), ("pvt", PvtNet)):
            if (config.bound == bound) != isinstance(net, kind):
                raise ValueError(
                    f'BoundTrainConfig: bound must be "{bound}" for a network of kind "{bound}" '
                    f"and for no other; got {config.bound!r} for {net.config.kind!r}."
                )
        self.config = config
        self.objective: nn.Module = _BoundObjective(net, config)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
        self.state = ("step", "exp_avg", "exp_avg_sq")
        self.p = math.inf
        self.lr = math.nan
        self.eps_train: float | None = None

    def at(self, done: float) -> tuple[float, float, float]:
        """eps, κ and β after ``done`` epochs; sets the learning rate."""
        share = self.config.share(done)
        self.lr = self.config.lr_at(done)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        eps = share * float(self.config.eps_train)
        self.eps_train = None if self.config.bound == "hinge" else eps
        first, last = self.config.kappa
        beta = 0.0 if self.config.bound in ("ibp", "pvt") else 1 - share
        return eps, first + share * (last - first), beta

    @property
    def watched(self) -> float:
        """The p at which an epoch's accuracy is taken."""
        return math.inf
