"""The settings of a training run, checked when they are made."""

import math
from dataclasses import dataclass, field
from typing import Literal

from linfdist.baselines import BaselineNet
from linfdist.data import Augmentation
from linfdist.nn import LinfDistNet, LinfDistNetMLP, LogSumExp
from linfdist.optim.lp_adamw import DECAYS
from linfdist.optim.schedules import LrSchedule
from linfdist.robust import Loss
from linfdist.system.serialise import OMITTED_AT_DEFAULT, check_fields
from linfdist.training.bounds import BoundTrainConfig
from linfdist.training.colt import LayerwiseTrainConfig

DistNet = LinfDistNet | LinfDistNetMLP


Net = DistNet | BaselineNet


Smoothing = Literal["lp", "lse", "matched_lse", "lp_then_lse"]


Precision = Literal["highest", "high", "medium"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The paper's training; defaults from [Zhang2021, Table 6].

    Args:
        epochs: e1 epochs at p_start, e2 with p rising, e3 at p = ∞.
        loss: the training loss; it must fit the kind of network.
        batch_size: images per step, over all processes together.
        lr: the peak learning rate.
        betas: Adam's decay rates of its two moments.
        adam_eps: Adam's ε.
        weight_decay: the strength of the weight decay.
        decay: "lp", "l2" or "none", the kind of weight decay in the dist layers.
        p_start: p in the first e1 epochs.
        p_end: the p at which the rise ends.
        augmentation: shifts, flips and crops of the training images.
        train_images: use only the first n training images; None for all.
        smoothing: what p < ∞ stands for.

            - "lp": the paper's l_p distance.
            - "lse": LogSumExp at t = p in all layers.
            - "matched_lse": LogSumExp at t_l = (p − 1) / m_l in layer l, where m_l is the running
              mean of the layer's distances.
            - "lp_then_lse": "lp" for the first e1 epochs, then "matched_lse" while p rises.

            In each case the weights' "lp" decay uses p.
        p_rise: where p starts to rise for "lp_then_lse", instead of p_start.
        relaxation: with LogSumExp, divides the loss's threshold or eps_train for e1 epochs. The
            divisor then falls to 1 as p rises (``relaxation_at``). l_p training needs no such
            divisor: an l_p layer stretches distances by up to in_features^(1/p), while the loss
            asks for the same margin. A LogSumExp layer never stretches distances.
        matmul_precision: the precision of a step's matrix products, by the names of
            torch.set_float32_matmul_precision: "highest" is float32, "high" TF32 and "medium"
            bfloat16 where the processor has units for them. No other switch has an effect: ``fit``
            turns autocast off. Accuracies are always computed in float32.
        lr_schedule: "paper" holds lr for e1 epochs before its half cosine; "cosine" starts its half
            cosine at once.
    """

    epochs: tuple[int, int, int]
    loss: Loss
    batch_size: int = 512
    lr: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    adam_eps: float = 1e-10
    weight_decay: float = 0.005
    decay: str = "lp"
    p_start: float = 8.0
    p_end: float = 1000.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    train_images: int | None = None
    smoothing: Smoothing = field(default="lp", metadata=OMITTED_AT_DEFAULT)
    p_rise: float | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    relaxation: float = field(default=1.0, metadata=OMITTED_AT_DEFAULT)
    matmul_precision: Precision = field(default="highest", metadata=OMITTED_AT_DEFAULT)
    lr_schedule: LrSchedule = field(default="paper", metadata=OMITTED_AT_DEFAULT)

    def __post_init__(self) -> None:
        check_fields(self, ranged=("p_start", "p_end", "relaxation"))
        if min(self.epochs) < 0 or sum(self.epochs) == 0:
            raise ValueError(
                "TrainConfig: epochs must be three numbers (e1, e2, e3) of at least 0, not all 0; "
                f"got {self.epochs}."
            )
        if self.batch_size < 2:
            raise ValueError(
                f"TrainConfig: batch_size must be at least 2; got {self.batch_size}. A mean shift "
                "subtracts the mean of a batch, which leaves nothing of a single image."
            )
        for name in ("lr", "adam_eps", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"TrainConfig: {name} must be at least 0; got {getattr(self, name)}."
                )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"TrainConfig: betas must be in [0, 1); got {self.betas}.")
        rises = self.p_start < math.inf
        if not self.p_start >= 1 or math.isnan(self.p_end) or (rises and self.p_end == math.inf):
            raise ValueError(
                "TrainConfig: p_start must be in [1, inf] and p_end finite unless p_start is inf; "
                f"got {self.p_start} and {self.p_end}. The last phase is at p = inf anyway."
            )
        if self.p_start < math.inf and not self.p_end >= self.p_start:
            raise ValueError(
                f"TrainConfig: p_end must be at least p_start={self.p_start}; got {self.p_end}."
            )
        if self.decay not in DECAYS:
            raise ValueError(
                f"TrainConfig: decay must be one of {', '.join(DECAYS)}; got {self.decay!r}."
            )
        if (self.smoothing == "lp_then_lse") != (self.p_rise is not None):
            raise ValueError(
                'TrainConfig: p_rise must be given for smoothing="lp_then_lse" and for no other; '
                f"got smoothing={self.smoothing!r} and p_rise={self.p_rise}."
            )
        if self.p_rise is not None and not self.p_start < self.p_rise <= self.p_end:
            raise ValueError(
                "TrainConfig: p_rise must be above p_start and at most p_end, which are "
                f"{self.p_start} and {self.p_end}; got {self.p_rise}."
            )
        if not 1 <= self.relaxation < math.inf:
            raise ValueError(
                f"TrainConfig: relaxation must be in [1, inf), 1 for none; got {self.relaxation}."
            )
        if self.smoothing == "matched_lse" and not self.p_start > 1:
            raise ValueError(
                'TrainConfig: p_start must be above 1 for smoothing="matched_lse", whose '
                f"temperatures are proportional to p - 1; got {self.p_start}."
            )

    def smooth(self, p: float) -> float | LogSumExp:
        """The p or LogSumExp to call the network with when the schedule is at ``p``."""
        first = self.smoothing == "lp_then_lse" and p == self.p_start
        if math.isinf(p) or self.smoothing == "lp" or first:
            return p
        if self.smoothing == "lse":
            return LogSumExp(p)
        return LogSumExp(p - 1, matched=True)


AnyTrainConfig = TrainConfig | BoundTrainConfig | LayerwiseTrainConfig
