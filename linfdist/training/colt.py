"""COLT: three stages of SGD, each on the layers that the stages before it have left."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines import BaselineNet, instability, interval, latent_attack, prefix_length
from linfdist.data import Augmentation
from linfdist.optim.schedules import Epochs
from linfdist.system.serialise import check_fields


@dataclass(frozen=True, kw_only=True)
class LayerwiseTrainConfig:
    """Three stages of SGD, each on what follows a prefix of the network  [Balunovic2020].

    ``epochs``: of each stage. Stage k attacks the inputs of the layers behind the first k ReLUs,
    anywhere in the zonotope of the box of radius ``eps_factor`` ** (2 − k) · ``eps_train``, and
    trains those layers alone; over its first ``mix_epochs`` the loss goes over to that from the
    loss of the stage before, at first of clean images. ``attack_steps`` steps of ``attack_step``
    half widths go up the sign of the loss's gradient.

    To the loss are added ``l1`` times the sum of the |weights| that it trains, and, as it goes
    over, ``stability`` · ``stability_factor`` ** k times the sum of max(−l, 0) · max(u, 0) over the
    next stage's ReLUs, by the mean image, for l and u bounds of their inputs.

    ``lr`` is multiplied by ``stage_factor`` from stage to stage, and by ``lr_factor`` every
    ``lr_epochs`` epochs after a stage's ``mix_epochs``.
    """

    epochs: Epochs
    eps_train: Fraction
    mix_epochs: int
    eps_factor: float = 1.2
    attack_steps: int = 8
    attack_step: float = 0.25
    l1: float = 5e-6
    stability: float = 3e-3
    stability_factor: float = 1.5
    lr: float = 0.03
    momentum: float = 0.9
    lr_epochs: int = 10
    lr_factor: float = 0.5
    stage_factor: float = 0.5
    batch_size: int = 150
    augmentation: Augmentation = field(default_factory=Augmentation)
    train_images: int | None = None
    matmul_precision: Literal["highest", "high", "medium"] = "highest"

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.epochs) < 1:
            raise ValueError(
                "LayerwiseTrainConfig: epochs must be three numbers of at least 1, one for each "
                f"stage; got {self.epochs}."
            )
        if not self.eps_train >= 0:
            raise ValueError(
                "LayerwiseTrainConfig: eps_train must be at least 0, in pixels; got "
                f"{self.eps_train}."
            )
        for name in ("attack_steps", "batch_size", "lr_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"LayerwiseTrainConfig: {name} must be at least 1; got {getattr(self, name)}."
                )
        for name in (
            *("mix_epochs", "eps_factor", "attack_step", "l1", "stability", "stability_factor"),
            *("lr", "momentum", "lr_factor", "stage_factor"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"LayerwiseTrainConfig: {name} must be at least 0; got {getattr(self, name)}."
                )

    def stage(self, done: float) -> tuple[int, float]:
        """The stage after ``done`` epochs, and the epochs that it has behind it."""
        for stage, epochs in enumerate(self.epochs[:2]):
            if done < epochs:
                return stage, done
            done -= epochs
        return 2, done

    def eps_at(self, stage: int) -> float:
        """The radius of a stage's box, in pixels."""
        return self.eps_factor ** (2 - stage) * float(self.eps_train)

    def share(self, inside: float) -> float:
        """How much of the loss is the stage's own, ``inside`` epochs after its start."""
        return 1.0 if self.mix_epochs == 0 else min(1.0, inside / self.mix_epochs)

    def lr_at(self, stage: int, inside: float) -> float:
        """The learning rate of a stage, ``inside`` epochs after its start."""
        drops = max(0, int((inside - self.mix_epochs) // self.lr_epochs))
        return self.lr * self.stage_factor**stage * self.lr_factor**drops


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
