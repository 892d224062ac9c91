"""What a training run is made of, and what must fit together before it starts."""

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

    ``epochs``: e1 at p_start, e2 with p rising, e3 at p = ∞. ``decay``: "lp", "l2" or "none" for
    the dist layers. ``train_images``: only the first n training images; None for all.

    ``smoothing``: what p < ∞ stands for. "lp" is the paper's l_p distance; "lse" is LogSumExp at
    t = p in all layers, "matched_lse" at t_l = (p − 1) / m_l in layer l, with the running mean m_l
    of its distances. "lp_then_lse" is "lp" for the first e1 epochs and "matched_lse" while p rises,
    from ``p_rise`` instead of p_start. The weights' "lp" decay is at p in each case.

    ``relaxation``: at LogSumExp the loss's threshold or eps_train is divided by it for e1 epochs,
    then by less and less as p rises, down to 1 (``relaxation_at``). l_p training is relaxed by
    itself: a layer stretches distances by up to in_features^(1/p), and the loss asks for the same
    margin. A layer of LogSumExp never stretches.

    ``matmul_precision``: of a step's matrix products, as torch.set_float32_matmul_precision takes
    it: "highest" is float32, "high" TF32 and "medium" bfloat16 where the processor has units for
    them. It alone says so: ``fit`` switches autocast off. Accuracies are always taken in float32.

    ``lr_schedule``: "paper" holds lr for e1 epochs before its half cosine; the half cosine of
    "cosine" starts at once.
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
        """What the network is given at the schedule's p."""
        first = self.smoothing == "lp_then_lse" and p == self.p_start
        if math.isinf(p) or self.smoothing == "lp" or first:
            return p
        if self.smoothing == "lse":
            return LogSumExp(p)
        return LogSumExp(p - 1, matched=True)


AnyTrainConfig = TrainConfig | BoundTrainConfig | LayerwiseTrainConfig
