"""The paper's recipe: p rises to infinity, and Adam uses l_p weight decay."""

import math
from typing import Any

from torch import Tensor, nn

from linfdist.nn import LinfDistNet, LinfDistNetMLP, LogSumExp
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
from linfdist.training.objective import Objective


class _Objective(Objective):
    """The four losses of l_inf-dist nets.

    ``scale`` multiplies the logits in the cross entropy of ``MixtureLoss``. It is a trained
    parameter of the objective, not of the network. With other losses it is None.
    """

    net: DistNet

    def __init__(self, net: DistNet, loss: Loss) -> None:
        super().__init__(net)
        self.settings = loss
        self.scale: nn.Parameter | None = None
        if isinstance(loss, MixtureLoss):
            like = next(net.parameters())
            self.scale = nn.Parameter(like.new_full((), loss.scale))
        # Read only once: on a GPU each read waits for all work under way.
        self.lipschitz = net.lipschitz if isinstance(net, LinfDistNet) else net.feature_lipschitz

    def loss(
        self,
        pixels: Tensor,
        labels: Tensor,
        p: float | LogSumExp,
        radius: float,
        weight: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits.

        Args:
            pixels: the images.
            labels: their classes.
            p: the p or LogSumExp of the dist layers.
            radius: in pixels, the hinge's threshold or the eps of the interval bounds.
            weight: λ of the losses that have one.
        """
        net, settings = self.net, self.settings
        reach = radius * self.lipschitz
        if isinstance(settings, HingeLoss):
            logits = net(pixels, p)
            return hinge_loss(logits, labels, reach, settings.mix), logits
        if isinstance(settings, MixtureLoss):
            logits = net(pixels, p)
            assert self.scale is not None  # by __init__
            return mixture_loss(logits, labels, reach, weight, self.scale), logits
        assert isinstance(net, LinfDistNetMLP)  # by _checked
        logits, margins = net.logits_and_ball_margins(net.features(pixels, p), reach, labels)
        if isinstance(settings, GatedLoss):
            return gated_loss(logits, margins, labels, weight), logits
        return ibp_loss(logits, margins, labels, settings.kappa), logits

    def logits(self, pixels: Tensor, p: float | LogSumExp, *rest: float) -> Tensor:
        return self.net(pixels, p)


class LinfDistRecipe:
    """The paper's recipe: p, or LogSumExp's t, rises to ∞; Adam uses l_p weight decay.

    A ``Recipe``; ``p`` is NaN before the first step.
    """

    def __init__(self, net: nn.Module, config: TrainConfig) -> None:
        net = _checked(net, config)
        self.config = config
        self.objective = _Objective(net, config.loss)
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

    def set_progress(self, epochs: float) -> tuple[Any, ...]:
        """Set p and the learning rates; return the smoothing, the radius and λ if there is one."""
        config = self.config
        self.p = p_at(epochs, config.epochs, config.p_start, config.p_end, config.p_rise)
        self.lr = lr_at(epochs, config.epochs, config.lr, config.lr_schedule)
        smoothing = config.smooth(self.p)
        relaxed = config.relaxation if isinstance(smoothing, LogSumExp) else 1.0
        relaxation = relaxation_at(epochs, config.epochs, relaxed)
        if isinstance(config.loss, IBPLoss | GatedLoss):
            radius = eps_at(epochs, config.epochs, float(config.loss.eps_train)) / relaxation
            self.eps_train = radius
        else:
            radius = float(config.loss.threshold) / relaxation
        set_p(self.optimizer, self.p)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.lr
        if isinstance(config.loss, MixtureLoss | GatedLoss):
            return smoothing, radius, weight_at(epochs, config.epochs, config.loss.weights)
        return smoothing, radius

    @property
    def eval_p(self) -> float | LogSumExp:
        """The p or LogSumExp of the last step."""
        return self.config.smooth(self.p)


def _checked(net: nn.Module, config: TrainConfig) -> DistNet:
    """The network; refuses a loss that does not fit it."""
    of_margins = isinstance(config.loss, HingeLoss | MixtureLoss)
    kind = LinfDistNet if of_margins else LinfDistNetMLP
    if not isinstance(net, kind):
        raise TypeError(
            f"fit: {type(config.loss).__name__} must train a {kind.__name__}; got "
            f"{type(net).__name__}. HingeLoss and MixtureLoss are for LinfDistNet, IBPLoss and "
            "GatedLoss for LinfDistNetMLP."
        )
    return net
