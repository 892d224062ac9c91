"""How COLT trains: layer by layer, against attacks on what a relaxation leaves possible."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

from linfdist.config import check_fields
from linfdist.data import Augmentation
from linfdist.optim.schedules import Epochs


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
