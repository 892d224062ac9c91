"""What a step of training computes and how it updates, apart from the loop around it."""

import math
from typing import Any

from torch import Tensor, nn

from linfdist.nn import LogSumExp
from linfdist.optim import LpAdamW, eps_at, lr_at, p_at, param_groups, relaxation_at, set_p
from linfdist.robust import HingeLoss, IBPLoss, hinge_loss, ibp_loss
from linfdist.train_config import Net, TrainConfig


class _Objective(nn.Module):
    """Network and loss in one, so that DistributedDataParallel sums gradients as they appear."""

    def __init__(self, net: Net, loss: HingeLoss | IBPLoss) -> None:
        super().__init__()
        self.net = net
        self.loss = loss

    def forward(
        self, pixels: Tensor, labels: Tensor, p: float | LogSumExp, radius: float
    ) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits; no images have the loss 0, on which all weights depend.

        ``radius``, in pixels: the hinge's threshold, or the eps of the interval bounds.
        """
        if isinstance(self.loss, HingeLoss):
            logits = self.net(pixels, p)
            loss = hinge_loss(logits, labels, radius * self.net.lipschitz, self.loss.mix)
        else:
            features = self.net.features(pixels, p)
            reach = radius * self.net.feature_lipschitz
            logits, margins = self.net.logits_and_ball_margins(features, reach, labels)
            loss = ibp_loss(logits, margins, labels, self.loss.kappa)
        return loss if len(labels) else logits.sum(), logits


class LinfDistRecipe:
    """The paper's: a finite p or LogSumExp that rises to p = ∞, and Adam with l_p weight decay.

    ``objective`` takes pixels, labels and what ``at`` returns to the mean loss and the logits;
    ``at`` sets the ``optimizer`` for a step, too. ``p``, ``lr`` and ``eps_train`` (None for the
    hinge loss) are those of the last step, NaN before.
    """

    def __init__(self, net: Net, config: TrainConfig) -> None:
        self.config = config
        self.objective: nn.Module = _Objective(net, config.loss)
        self.optimizer = LpAdamW(
            param_groups(net, config.decay),
            lr=config.lr,
            betas=config.betas,
            eps=config.adam_eps,
            weight_decay=config.weight_decay,
        )
        self.p = self.lr = math.nan
        self.eps_train: float | None = None

    def at(self, done: float) -> tuple[Any, ...]:
        """Arguments of the objective after ``done`` epochs; sets p and the learning rate."""
        config = self.config
        self.p = p_at(done, config.epochs, config.p_start, config.p_end, config.p_rise)
        self.lr = lr_at(done, config.epochs, config.lr)
        smoothing = config.smooth(self.p)
        relaxed = config.relaxation if isinstance(smoothing, LogSumExp) else 1.0
        relaxation = relaxation_at(done, config.epochs, relaxed)
        if isinstance(config.loss, IBPLoss):
            radius = eps_at(done, config.epochs, float(config.loss.eps_train)) / relaxation
            self.eps_train = radius
        else:
            radius = float(config.loss.threshold) / relaxation
        set_p(self.optimizer, self.p)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        return smoothing, radius

    @property
    def watched(self) -> float | LogSumExp:
        """The p at which an epoch's accuracy is taken."""
        return self.config.smooth(self.p)
