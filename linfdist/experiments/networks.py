"""Build any network of this package from its configuration."""

from collections.abc import Callable
from functools import partial

import torch

from linfdist.baselines import BaselineConfig, build_baseline
from linfdist.data import DatasetInfo
from linfdist.nn import NetConfig, build_net
from linfdist.system import values
from linfdist.training.config import Net


def build(config: NetConfig | BaselineConfig, info: DatasetInfo, seed: int) -> Net:
    """The network of ``config`` for the images and classes of ``info``.

    Its weights depend only on ``seed``; torch's global generator stays as it is. The network is on
    torch's default device, the CPU unless the caller changed it.

    Raises:
        TypeError: ``config`` or ``seed`` has another type.
        ValueError: the images are too small for the network, or the seed is out of range.
    """
    seed = values.seed(seed, "build")
    build_any: Callable[..., Net] = (
        partial(build_baseline, config)
        if isinstance(config, BaselineConfig)
        else partial(build_net, config)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_any(
            input_shape=info.input_shape,
            num_classes=info.num_classes,
            mean=info.mean,
            std=info.std,
        )
