"""COLT: three stages of SGD. Stage k freezes the layers up to the k-th ReLU, trains the rest."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linfdist.baselines import (
    ColtNet,
    instability,
    interval_trace,
    latent_attack,
    prefix_length,
)
from linfdist.data import Augmentation
from linfdist.optim.schedules import Epochs
from linfdist.robust.boxes import rounded_box
from linfdist.system.serialise import check_fields
from linfdist.training.objective import Objective


@dataclass(frozen=True, kw_only=True)
class LayerwiseTrainConfig:
    """Three stages of SGD, each on the layers behind a frozen prefix  [Balunovic2020].

    Stage k = 0, 1, 2 trains only the layers behind the first k ReLUs. It attacks the inputs of
    these layers anywhere in the zonotope of a pixel box. During the first ``mix_epochs`` the loss
    moves from the previous stage's loss to the stage's own; stage 0 starts from the loss of clean
    images. Two penalties are added to the loss.

    Args:
        epochs: the number of epochs of each stage.
        eps_train: sets the radius of stage k's box: ``eps_factor`` ** (2 − k) · ``eps_train``, in
            pixels.
        mix_epochs: the epochs over which a stage's own loss takes over, linearly.
        eps_factor: see ``eps_train``.
        attack_steps: steps of the attack, along the sign of the loss's gradient.
        attack_step: the length of such a step, in half widths.
        l1: the weight of the first penalty, the sum of the |weights| that the stage trains.
        stability: in stages 0 and 1, ``stability`` · ``stability_factor`` ** k is the weight of the
            second penalty: the sum of max(−l, 0) · max(u, 0) over the next stage's ReLUs, mean over
            images, where l and u bound the ReLU's input. It grows with the stage's own loss.
        stability_factor: see ``stability``.
        lr: the learning rate at the start.
        momentum: SGD's momentum.
        lr_epochs: after a stage's ``mix_epochs``, lr is multiplied by ``lr_factor`` every
            ``lr_epochs`` epochs.
        lr_factor: see ``lr_epochs``.
        stage_factor: multiplies lr from stage to stage.
        batch_size: images per step, over all processes together.
        augmentation: shifts, flips and crops of the training images.
        train_images: use only the first n training images; None for all.
        matmul_precision: as in ``TrainConfig``.
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
        """The stage after ``done`` epochs of training, and the epochs since its start."""
        for stage, epochs in enumerate(self.epochs[:2]):
            if done < epochs:
                return stage, done
            done -= epochs
        return 2, done

    def eps_at(self, stage: int) -> float:
        """The radius of a stage's box, in pixels."""
        return self.eps_factor ** (2 - stage) * float(self.eps_train)

    def share(self, inside: float) -> float:
        """The share of the stage's own loss in [0, 1], ``inside`` epochs after its start."""
        return 1.0 if self.mix_epochs == 0 else min(1.0, inside / self.mix_epochs)

    def lr_at(self, stage: int, inside: float) -> float:
        """The learning rate of a stage, ``inside`` epochs after its start."""
        drops = max(0, int((inside - self.mix_epochs) // self.lr_epochs))
        return self.lr * self.stage_factor**stage * self.lr_factor**drops


class _LayerwiseObjective(Objective):
    """The loss of one stage; the layers that the stage freezes are idle."""

    net: ColtNet

    def __init__(self, net: ColtNet, config: LayerwiseTrainConfig) -> None:
        super().__init__(net)
        self.config = config

    def loss(
        self, pixels: Tensor, labels: Tensor, stage: int, eps: float, share: float
    ) -> tuple[Tensor, Tensor]:
        """The mean loss, a mixture of two stages' with two penalties, and the logits."""
        with torch.no_grad():
            logits = self.net(pixels)
        lower, upper = rounded_box(pixels, eps)
        loss = share * self.attacked(stage, stage, lower, upper, labels)
        if share < 1 and stage == 0:
            loss = loss + (1 - share) * F.cross_entropy(self.net(pixels), labels)
        elif share < 1:
            loss = loss + (1 - share) * self.attacked(stage - 1, stage, lower, upper, labels)
        frozen = {id(weight) for weight in self.idle(stage)}
        trained = (weight for weight in self.net.parameters() if id(weight) not in frozen)
        weights = (weight for weight in trained if weight.dim() > 1)
        loss = loss + self.config.l1 * sum(weight.abs().sum() for weight in weights)
        if stage < 2 and self.config.stability > 0:
            factor = self.config.stability * self.config.stability_factor**stage
            layers = [*self.net.features]
            begin = prefix_length(layers, stage)
            with torch.no_grad():
                front = interval_trace(layers[:begin], lower, upper)
            unstable = instability(layers[begin:], front.lower, front.upper)
            loss = loss + share * factor * unstable
        return loss, logits

    def attacked(
        self, relus: int, stage: int, lower: Tensor, upper: Tensor, labels: Tensor
    ) -> Tensor:
        """The mean cross entropy at the points that an attack behind ``relus`` ReLUs finds."""
        layers, last = [*self.net.features], self.net.last
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

    def idle(self, stage: int, *rest: float) -> Iterator[Tensor]:
        """The weights and biases that the stage freezes."""
        layers = [*self.net.features]
        for layer in layers[: prefix_length(layers, stage)]:
            yield from layer.parameters()


class LayerwiseRecipe:
    """COLT's recipe: three stages of SGD. A ``Recipe``."""

    def __init__(self, net: nn.Module, config: LayerwiseTrainConfig) -> None:
        if not isinstance(net, ColtNet):
            raise TypeError(
                f"fit: LayerwiseTrainConfig must train a ColtNet; got {type(net).__name__}. Build "
                'BaselineConfig(kind="colt").'
            )
        self.config = config
        self.objective = _LayerwiseObjective(net, config)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=config.lr, momentum=config.momentum)
        self.state = ("momentum_buffer",) if config.momentum else ()
        self.p = math.inf
        self.lr = math.nan
        self.eps_train: float | None = None

    def set_progress(self, epochs: float) -> tuple[int, float, float]:
        """Set the learning rate; return the stage, eps and the share of the stage's own loss.

        A stage starts without momentum, so that a weight with gradient 0 does not move.
        """
        stage, inside = self.config.stage(epochs)
        if inside == 0:
            self.optimizer.state.clear()
        self.lr = self.config.lr_at(stage, inside)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.eps_train = self.config.eps_at(stage)
        return stage, self.eps_train, self.config.share(inside)

    @property
    def eval_p(self) -> float:
        """∞: the network has no p."""
        return math.inf
