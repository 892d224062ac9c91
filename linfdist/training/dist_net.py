"""The paper's recipe: p rises to infinity, and Adam uses l_p weight decay."""

import math
from typing import Any

from torch import Tensor, nn

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
from linfdist.training.config import DistNet, TrainConfig


class _Objective(nn.Module):
    """Network and loss in one module, so that DistributedDataParallel sums gradients at once.

    ``scale`` multiplies the logits in the cross entropy of ``MixtureLoss``. It is a trained
    parameter of the objective, not of the network. With other losses it is None.
    """

    def __init__(self, net: DistNet, loss: Loss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss
        self.scale: nn.Parameter | None = None
        if isinstance(loss, MixtureLoss):
            like = next(net.parameters())
            self.scale = nn.Parameter(like.new_full((), loss.scale))
        # Read only once: on a GPU each read waits for all work under way.
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
        """The mean loss and the logits.

        A batch without images has the loss 0, with a gradient of 0 in all weights.

        Args:
            pixels: the images.
            labels: their classes.
            p: the p or LogSumExp of the dist layers.
            radius: in pixels, the hinge's threshold or the eps of the interval bounds.
            weight: λ of the losses that have one.
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
    """The paper's recipe: p, or LogSumExp's t, rises to ∞; Adam uses l_p weight decay.

    - ``objective`` maps pixels, labels and the values of ``at`` to the mean loss and the logits.
    - ``at`` also sets the ``optimizer`` for the next step.
    - ``state`` lists the names of the optimizer's values for each parameter.
    - ``p``, ``lr`` and ``eps_train`` are those of the last step. Before the first step ``p`` and
      ``lr`` are NaN. ``eps_train`` is None for losses on margins of Lipschitz logits.
    """

    def __init__(self, net: DistNet, config: TrainConfig) -> None:
        self.config = config
        self.objective: nn.Module = _Objective(net, config.loss)
        groups = param_groups(net, config.decay)
        self.rates = [1.0] * len(groups)  # one per group, as multiples of the learning rate
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
        """Set p and the learning rates after ``done`` epochs; return the objective's arguments."""
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
        """The p or LogSumExp at which ``fit`` measures an epoch's accuracy."""
        return self.config.smooth(self.p)
