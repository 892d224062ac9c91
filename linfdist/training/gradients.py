"""How many weights the gradients reach.

At p = ∞ an image gives a gradient to one weight per neuron; at small p it reaches all weights.
"""

import torch

from linfdist.data import ImageSet
from linfdist.training.config import DistNet, TrainConfig
from linfdist.training.state import TrainingState


def gradient_shares(
    net: DistNet,
    train: ImageSet,
    config: TrainConfig,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Train ``net`` in place for one epoch and count the weights reached  [Zhang2021, Sec. 5.2].

    Adam moves an entry as soon as it has a gradient. Weight decay moves entries too, but is not
    counted here.

    Args:
        net: the network, initialised.
        train: the training images.
        config: the settings. p is that of the first epoch: ``epochs=(0, 0, 1)`` gives ∞.
        seed: of the order of the images and of their augmentation.
        device: where to train.

    Returns:
        One share in [0, 1] per step: the entries of all weight matrices whose gradient was not
        exactly 0 in at least one step so far.

    Raises:
        TypeError, ValueError: as ``fit``.
    """
    run = TrainingState(net, train, config, seed, None, device)
    weights = [weight for weight in run.net.parameters() if weight.ndim > 1]
    reached = [torch.zeros_like(weight, dtype=torch.bool) for weight in weights]
    total = sum(weight.numel() for weight in weights)
    shares = []
    for _ in range(run.steps_per_epoch):
        run.train_step()
        for weight, seen in zip(weights, reached, strict=True):
            seen |= weight.grad != 0
        shares.append(sum(int(seen.sum()) for seen in reached) / total)
    return shares
