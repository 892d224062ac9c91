"""What a step of training computes and how it updates, apart from the loop around it."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines import BaselineNet, CapNet, PvtNet
from linfdist.bound_config import BoundTrainConfig
from linfdist.layerwise_config import LayerwiseTrainConfig
from linfdist.layerwise_recipe import LayerwiseRecipe
from linfdist.nn import LogSumExp
from linfdist.optim import (
    LpAdamW,
    eps_at,
    lr_at,
    p_at,
    param_groups,
    relaxation_at,
    set_p,
    weight_at,
)
from linfdist.robust import (
    GatedLoss,
    HingeLoss,
    IBPLoss,
    Loss,
    MixtureLoss,
    gated_loss,
    hinge_loss,
    ibp_loss,
    mixture_loss,
)
from linfdist.train_config import AnyTrainConfig, DistNet, Net, TrainConfig


class _Objective(nn.Module):
    """Network and loss in one, so that DistributedDataParallel sums gradients as they appear.

    ``scale``, of the logits in the cross entropy of ``MixtureLoss``, is a parameter of its own
    beside the network's. Other losses have none.
    """

    def __init__(self, net: DistNet, loss: Loss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.scale: nn.Parameter | None = None
        if isinstance(loss, MixtureLoss):
            like = next(net.parameters())
            self.scale = nn.Parameter(like.new_full((), loss.scale))
        # Read once: on a GPU that waits for what is under way.
        on_logits = isinstance(loss, HingeLoss | MixtureLoss)
        self.lipschitz = net.lipschitz if on_logits else net.feature_lipschitz

    def forward(
        self,
        pixels: Tensor,
        labels: Tensor,
        p: float | LogSumExp,
        radius: float,
        weight: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits; no images have the loss 0, on which all weights depend.

        ``radius``, in pixels: the hinge's threshold, or the eps of the interval bounds. ``weight``:
        λ of the losses that have one.
        """
        if isinstance(self.loss, HingeLoss | MixtureLoss):
            logits = self.net(pixels, p)
            threshold = radius * self.lipschitz
            if self.scale is None:
                loss = hinge_loss(logits, labels, threshold, self.loss.mix)
            else:
                loss = mixture_loss(logits, labels, threshold, weight, self.scale)
        else:
            features = self.net.features(pixels, p)
            reach = radius * self.lipschitz
            logits, margins = self.net.logits_and_ball_margins(features, reach, labels)
            if isinstance(self.loss, GatedLoss):
                loss = gated_loss(logits, margins, labels, weight)
            else:
                loss = ibp_loss(logits, margins, labels, self.loss.kappa)
        if len(labels):
            return loss, logits
        return (logits if self.scale is None else self.scale * logits).sum(), logits


class LinfDistRecipe:
    """The paper's: a finite p or LogSumExp that rises to p = ∞, and Adam with l_p weight decay.

    ``objective`` takes pixels, labels and what ``at`` returns to the mean loss and the logits;
    ``at`` sets the ``optimizer`` for a step, too. ``state`` names what the optimizer keeps of a
    parameter. ``p``, ``lr`` and ``eps_train`` (None for losses on
    margins of Lipschitz logits) are those of the last step, NaN before.
    """

    def __init__(self, net: DistNet, config: TrainConfig) -> None:
        self.config = config
        self.objective: nn.Module = _Objective(net, config.loss)
        groups = param_groups(net, config.decay)
        self.rates = [1.0] * len(groups)  # of each group, as multiples of the learning rate
        if isinstance(config.loss, MixtureLoss):
            groups.append({"params": [self.objective.scale], "decay": "none"})
            self.rates.append(config.loss.scale_rate)
        self.optimizer = LpAdamW(
            groups,
            lr=config.lr,
            betas=config.betas,
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self.state = ("step", "exp_avg", "exp_avg_sq")
        self.p = self.lr = math.nan
        self.eps_train: float | None = None

    def at(self, done: float) -> tuple[Any, ...]:
        """Arguments of the objective after ``done`` epochs; sets p and the learning rates."""
        config = self.config
        self.p = p_at(done, config.epochs, config.p_start, config.p_end, config.p_rise)
        self.lr = lr_at(done, config.epochs, config.lr, config.lr_schedule)
        smoothing = config.smooth(self.p)
        relaxed = config.relaxation if isinstance(smoothing, LogSumExp) else 1.0
        relaxation = relaxation_at(done, config.epochs, relaxed)
        if isinstance(config.loss, IBPLoss | GatedLoss):
            radius = eps_at(done, config.epochs, float(config.loss.eps_train)) / relaxation
            self.eps_train = radius
        else:
            radius = float(config.loss.threshold) / relaxation
        set_p(self.optimizer, self.p)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.lr
        if isinstance(config.loss, MixtureLoss | GatedLoss):
            return smoothing, radius, weight_at(done, config.epochs, config.loss.weights)
        return smoothing, radius

    @property
    def watched(self) -> float | LogSumExp:
        """The p at which an epoch's accuracy is taken."""
        return self.config.smooth(self.p)


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


def recipe_of(net: Net, config: AnyTrainConfig) -> LinfDistRecipe | BoundRecipe | LayerwiseRecipe:
    """The recipe of a configuration."""
    if isinstance(config, LayerwiseTrainConfig):
        return LayerwiseRecipe(net, config)
    if isinstance(config, BoundTrainConfig):
        return BoundRecipe(net, config)
    return LinfDistRecipe(net, config)
