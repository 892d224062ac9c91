"""COLT's recipe: a stage trains what follows the layers that the stages before it have left."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines import (
    BaselineNet,
    instability,
    interval,
    latent_attack,
    prefix_length,
)
from linfdist.layerwise_config import LayerwiseTrainConfig


class _LayerwiseObjective(nn.Module):
    """Network and loss in one."""

    def __init__(self, net: BaselineNet, config: LayerwiseTrainConfig) -> None:
        super().__init__()
        self.net = net
        self.config = config

    def forward(
        self, pixels: Tensor, labels: Tensor, stage: int, eps: float, share: float
    ) -> tuple[Tensor, Tensor]:
        """The mean loss and the logits; the layers before the stage's have a gradient of 0."""
        with torch.no_grad():
            logits = self.net(pixels)
        frozen, trained = self.parts(stage)
        # Processes sum the gradients of all weights, and what has none is not summed.
        nothing = sum(weight.sum() * 0 for weight in frozen)
        if not len(labels):
            return nothing + sum(weight.sum() * 0 for weight in trained), logits
        lower, upper = (pixels - eps).clamp(0, 1), (pixels + eps).clamp(0, 1)
        loss = share * self.attacked(stage, stage, lower, upper, labels)
        if share < 1 and stage == 0:
            loss = loss + (1 - share) * F.cross_entropy(self.net(pixels), labels)
        elif share < 1:
            loss = loss + (1 - share) * self.attacked(stage - 1, stage, lower, upper, labels)
        weights = (weight for weight in trained if weight.dim() > 1)
        loss = loss + nothing + self.config.l1 * sum(weight.abs().sum() for weight in weights)
        if stage < 2 and self.config.stability > 0:
            factor = self.config.stability * self.config.stability_factor**stage
            begin = prefix_length(self.net.features, stage)
            with torch.no_grad():
                front = interval(self.net.features[:begin], lower, upper)
            unstable = instability(self.net.features[begin:], front.lower, front.upper)
            loss = loss + share * factor * unstable
        return loss, logits

    def attacked(
        self, relus: int, stage: int, lower: Tensor, upper: Tensor, labels: Tensor
    ) -> Tensor:
        """The mean cross entropy of what an attack behind ``relus`` ReLUs finds."""
        layers, last = self.net.features, self.net.last
        config = self.config
        point = latent_attack(
            layers,
            last,
            relus,
            lower,
            upper,
            labels,
            steps=config.attack_steps,
            step_size=config.attack_step,
        )
        begin = prefix_length(layers, stage)
        with torch.no_grad():
            for layer in layers[prefix_length(layers, relus) : begin]:
                point = layer(point)
        for layer in layers[begin:]:
            point = layer(point)
        return F.cross_entropy(last(point), labels)

    def parts(self, stage: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The weights and biases before the stage's layers, and those that it trains."""
        frozen = self.net.features[: prefix_length(self.net.features, stage)].parameters()
        names = {id(weight) for weight in frozen}
        every = [*self.net.parameters()]
        return [w for w in every if id(w) in names], [w for w in every if id(w) not in names]


class LayerwiseRecipe:
    """COLT's: three stages of SGD. As ``LinfDistRecipe``."""

    def __init__(self, net: BaselineNet, config: LayerwiseTrainConfig) -> None:
        self.config = config
        self.objective: nn.Module = _LayerwiseObjective(net, config)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=config.lr, momentum=config.momentum)
        self.state = ("momentum_buffer",) if config.momentum else ()
        self.p = math.inf
        self.lr = math.nan
        self.eps_train: float | None = None

    def at(self, done: float) -> tuple[int, float, float]:
        """Stage, eps and the loss's share after ``done`` epochs; sets the learning rate.

        A stage starts without momentum, so that a gradient of 0 moves nothing.
        """
        stage, inside = self.config.stage(done)
        if inside == 0:
            self.optimizer.state.clear()
        self.lr = self.config.lr_at(stage, inside)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.eps_train = self.config.eps_at(stage)
        return stage, self.eps_train, self.config.share(inside)

    @property
    def watched(self) -> float:
        """The p at which an epoch's accuracy is taken."""
        return math.inf
