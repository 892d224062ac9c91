"""Training, which resumes from a checkpoint bit for bit."""

from linfdist.robust.losses import GatedLoss, HingeLoss, IBPLoss, Loss, MixtureLoss
from linfdist.training.bounds import BoundTrainConfig
from linfdist.training.checkpoint import CheckpointConfig
from linfdist.training.colt import LayerwiseTrainConfig
from linfdist.training.config import AnyTrainConfig, TrainConfig
from linfdist.training.loop import OutOfTime, fit

__all__ = [
    "AnyTrainConfig",
    "BoundTrainConfig",
    "CheckpointConfig",
    "GatedLoss",
    "HingeLoss",
    "IBPLoss",
    "LayerwiseTrainConfig",
    "Loss",
    "MixtureLoss",
    "OutOfTime",
    "TrainConfig",
    "fit",
]
