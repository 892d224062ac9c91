"""What a training run is made of, and what must fit together before it starts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from linfdist import _values, distributed
from linfdist.baselines import BaselineNet, ColtNet
from linfdist.bound_config import BoundTrainConfig
from linfdist.config import OMITTED_AT_DEFAULT, check_fields
from linfdist.data import Augmentation, ImageSet, check_image_set
from linfdist.layerwise_config import LayerwiseTrainConfig
from linfdist.nn import LinfDistNet, LinfDistNetMLP, LogSumExp
from linfdist.optim.lp_adamw import DECAYS
from linfdist.optim.schedules import LrSchedule
from linfdist.robust import HingeLoss, Lipschitz, Loss, MixtureLoss
from linfdist.robust.checks import check_labels, check_net

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


def _check_kind(net: Net, config: AnyTrainConfig) -> None:
    """Refuse a loss that does not fit the network."""
    if isinstance(config, BoundTrainConfig):
        if not isinstance(net, BaselineNet):
            raise TypeError(
                f"fit: BoundTrainConfig must train a BaselineNet; got {type(net).__name__}. Use "
                "TrainConfig."
            )
        if config.bound == "hinge" and not isinstance(net, Lipschitz):
            raise TypeError(
                f'fit: bound="hinge" must train a network of Lipschitz logits, "groupsort"; got '
                f"{net.config.kind!r}."
            )
        return
    if isinstance(config, LayerwiseTrainConfig):
        if not isinstance(net, ColtNet):
            raise TypeError(
                f"fit: LayerwiseTrainConfig must train a ColtNet; got {type(net).__name__}. Build "
                'BaselineConfig(kind="colt").'
            )
        return
    of_margins = isinstance(config.loss, HingeLoss | MixtureLoss)
    kind = LinfDistNet if of_margins else LinfDistNetMLP
    if not isinstance(net, kind):
        raise TypeError(
            f"fit: {type(config.loss).__name__} must train a {kind.__name__}; got "
            f"{type(net).__name__}. HingeLoss and MixtureLoss are for LinfDistNet, IBPLoss and "
            "GatedLoss for LinfDistNetMLP."
        )


def check_fit(net: Net, train: ImageSet, test: ImageSet | None, config: AnyTrainConfig) -> None:
    """Refuse a loss, images or labels that do not fit the network."""
    if not isinstance(config, AnyTrainConfig):
        raise TypeError(
            "fit: config must be a TrainConfig, BoundTrainConfig or LayerwiseTrainConfig; got "
            f"{type(config).__name__}."
        )
    check_image_set(train, "fit: train")
    if test is not None:
        check_image_set(test, "fit: test")
    check_net(net, "fit")
    _check_kind(net, config)
    if len(train) == 0:
        raise ValueError("fit: train must hold at least one image; got none.")
    if config.train_images is not None and config.train_images > len(train):
        raise ValueError(
            f"fit: train_images must be at most {len(train)}, the images there are; got "
            f"{config.train_images}."
        )
    if isinstance(config, TrainConfig) and len(train.take(config.train_images)) == 1:
        raise ValueError(
            "fit: train must hold at least two images; got one, of which a mean shift leaves 0."
        )
    for images, name in _shapes(train, test, config):
        if images != net.input_shape:
            raise ValueError(
                f"fit: {name} images must have the network's input_shape={net.input_shape}; got "
                f"{images}. Set Augmentation.crop or build the network for these images."
            )
    for images in (train, test):
        if images is not None:
            check_labels(images.labels, net.num_classes, "fit")


def check_share(config: AnyTrainConfig) -> None:
    """Refuse batches of which a process that shifts by its own mean has a single image."""
    processes = distributed.size()
    if isinstance(config, TrainConfig) and config.batch_size < 2 * processes:
        raise ValueError(
            f"fit: batch_size must be at least {2 * processes} for {processes} processes with "
            f"sync_mean_shift=False; got {config.batch_size}. A mean shift leaves nothing of a "
            "share of one image."
        )


def check_seconds(seconds: Any, checkpoint: Path | None) -> float | None:
    """The seconds of a call; refuses a time after which nothing would be left."""
    seconds = _values.seconds(seconds, "fit: seconds")
    if seconds is not None and checkpoint is None:
        raise ValueError(
            f"fit: seconds={seconds:g} must come with a checkpoint to go on from; got none. Pass "
            "checkpoint, a path."
        )
    return seconds


def _shapes(
    train: ImageSet, test: ImageSet | None, config: AnyTrainConfig
) -> Iterator[tuple[tuple[int, ...], str]]:
    """The shapes that reach the network, and whose they are."""
    crop = config.augmentation.crop
    shape = tuple(train.images.shape[1:])
    yield (shape if crop is None else (shape[0], crop, crop)), "training"
    if test is not None:
        yield tuple(test.images.shape[1:]), "test"
