"""The training recipe that belongs to a configuration."""

from linfdist.training.bounds import BoundRecipe, BoundTrainConfig
from linfdist.training.colt import LayerwiseRecipe, LayerwiseTrainConfig
from linfdist.training.config import AnyTrainConfig, Net
from linfdist.training.dist_net import LinfDistRecipe


def recipe_of(net: Net, config: AnyTrainConfig) -> LinfDistRecipe | BoundRecipe | LayerwiseRecipe:
    """The recipe that trains ``net`` as ``config`` says."""
    if isinstance(config, LayerwiseTrainConfig):
        return LayerwiseRecipe(net, config)
    if isinstance(config, BoundTrainConfig):
        return BoundRecipe(net, config)
    return LinfDistRecipe(net, config)
