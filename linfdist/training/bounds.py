"""Training on certified bounds, as the compared methods do it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines import BaselineNet, CapNet, PvtNet
from linfdist.data import Augmentation
from linfdist.optim.schedules import Epochs
from linfdist.robust import HingeLoss, Lipschitz, hinge_loss, ibp_loss
from linfdist.robust.boxes import rounded_box
from linfdist.system.serialise import check_fields
from linfdist.training.objective import Objective

Bound = Literal["ibp", "crown_ibp", "loss_fusion", "cap", "pvt", "hinge"]


@dataclass(frozen=True, kw_only=True)
class BoundTrainConfig:
    """Adam on κ CE(logits) + (1 − κ) CE(bounds) over a pixel box whose radius eps grows.

    Args:
        epochs: e1 epochs on clean images; e2 in which eps grows linearly from 0 to ``eps_train``,
            κ moves from ``kappa[0]`` to ``kappa[1]`` and β falls from 1 to 0; e3 at the final
            values of all three.
        bound: how the worst case is bounded.

            - "ibp": margins by intervals  [Gowal2018].
            - "crown_ibp": margins by β CROWN + (1 − β) intervals  [Zhang2020].
            - "loss_fusion": the cross entropy itself by that mixture  [Xu2020].
            - "cap": margins by the convex outer polytope  [WongKolter2018].
            - "pvt": margins by lines that a verifier proposes; the verifier is trained together
              with the network  [Dvijotham2018].
            - "hinge": for networks of Lipschitz logits, ``hinge_loss`` at ``threshold`` pixels,
              with neither eps nor κ  [Anil2019].
        eps_train: the final radius, in pixels.
        threshold: the hinge's threshold, in pixels; only for bound="hinge".
        kappa: κ before and after the ramp.
        lr: Adam's learning rate at the start.
        lr_drops: the epochs after which lr is multiplied by ``lr_factor``.
        lr_factor: see ``lr_drops``.
        batch_size: images per step, over all processes together.
        augmentation: shifts, flips and crops of the training images.
        train_images: use only the first n training images; None for all.
        matmul_precision: as in ``TrainConfig``.
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
        """The progress of the ramp after ``done`` epochs, from 0 to 1."""
        e1, e2, _ = self.epochs
        if e2 == 0:
            return float(done >= e1)
        return min(1.0, max(0.0, (done - e1) / e2))

    def lr_at(self, done: float) -> float:
        """The learning rate after ``done`` epochs."""
        return self.lr * math.prod(self.lr_factor for drop in self.lr_drops if done >= drop)


class _HingeObjective(Objective):
    """``hinge_loss`` on Lipschitz logits; it has no schedule."""

    def __init__(self, net: BaselineNet, config: BoundTrainConfig) -> None:
        super().__init__(net)
        assert config.threshold is not None and isinstance(net, Lipschitz)  # by their checks
        self.threshold = float(config.threshold)  # in pixels
        self.lipschitz = net.lipschitz

    def loss(self, pixels: Tensor, labels: Tensor, *progress: float) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits."""
        logits = self.net(pixels)
        return hinge_loss(logits, labels, self.threshold * self.lipschitz), logits


class _BoundObjective(Objective):
    """κ CE(logits) + (1 − κ) CE(bounds), by the bound of one method."""

    net: BaselineNet

    def __init__(self, net: BaselineNet, config: BoundTrainConfig) -> None:
        super().__init__(net)
        self.bound = config.bound

    def loss(
        self, pixels: Tensor, labels: Tensor, eps: float, kappa: float, beta: float
    ) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits. At κ = 1, in the warm-up, no bound is computed."""
        if kappa == 1:
            logits = self.net(pixels)
            return F.cross_entropy(logits, labels), logits
        lower, upper = rounded_box(pixels, eps)
        if self.bound == "cap":
            logits = self.net(pixels)
            margins = self.net.worst_case_margins_on_box(lower, upper, labels)
            return ibp_loss(logits, margins, labels, kappa), logits
        trace = self.net.trace(lower, upper, pixels)
        logits = self.net.last(trace.clean)
        match self.bound:
            case "loss_fusion":
                worst = self.net.loss_bound(trace, labels, beta).mean()
                loss = kappa * F.cross_entropy(logits, labels) + (1 - kappa) * worst
            case "pvt":
                assert isinstance(self.net, PvtNet)  # by _checked
                loss = ibp_loss(logits, self.net.proven_margins(trace, labels), labels, kappa)
            case "ibp" | "crown_ibp":
                loss = ibp_loss(logits, self.net.margins(trace, labels, beta), labels, kappa)
        return loss, logits

    def idle(self, eps: float, kappa: float, beta: float) -> Iterable[Tensor]:
        """In the warm-up the verifier, which has a part in the bound only."""
        if kappa == 1 and isinstance(self.net, PvtNet):
            return self.net.verifier.parameters()
        return ()


class BoundRecipe:
    """A compared method's recipe: eps grows, κ and β fall, Adam's rate drops. A ``Recipe``."""

    def __init__(self, net: nn.Module, config: BoundTrainConfig) -> None:
        net = _checked(net, config)
        self.config = config
        objective = _HingeObjective if config.bound == "hinge" else _BoundObjective
        self.objective = objective(net, config)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
        self.state = ("step", "exp_avg", "exp_avg_sq")
        self.p = math.inf
        self.lr = math.nan
        self.eps_train: float | None = None

    def set_progress(self, epochs: float) -> tuple[float, float, float]:
        """Set the learning rate; return eps, κ and β."""
        share = self.config.share(epochs)
        self.lr = self.config.lr_at(epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        eps = share * float(self.config.eps_train)
        self.eps_train = None if self.config.bound == "hinge" else eps
        first, last = self.config.kappa
        beta = 0.0 if self.config.bound in ("ibp", "pvt") else 1 - share
        return eps, first + share * (last - first), beta

    @property
    def eval_p(self) -> float:
        """∞: the network has no p."""
        return math.inf


def _checked(net: nn.Module, config: BoundTrainConfig) -> BaselineNet:
    """The network; refuses a bound that does not fit it."""
    if not isinstance(net, BaselineNet):
        raise TypeError(
            f"fit: BoundTrainConfig must train a BaselineNet; got {type(net).__name__}. Use "
            "TrainConfig."
        )
    if config.bound == "hinge" and not isinstance(net, Lipschitz):
        raise TypeError(
            f'fit: bound="hinge" must train a network of Lipschitz logits, "groupsort"; got '
            f"{net.config.kind!r}."
        )
    for bound, kind in (("cap", CapNet), ("pvt", PvtNet)):
        if (config.bound == bound) != isinstance(net, kind):
            raise ValueError(
                f'BoundTrainConfig: bound must be "{bound}" for a network of kind "{bound}" '
                f"and for no other; got {config.bound!r} for {net.config.kind!r}."
            )
    return net
