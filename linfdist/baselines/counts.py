"""Parameters and operations of a conventional network, as the paper counts them."""

import torch
from torch import nn

from linfdist.baselines.nets import BaselineNet
from linfdist.nn import frozen


def parameter_count(net: nn.Module) -> int:
    """The number of entries of the weights of all convolutions and linear layers, no biases."""
    kinds = nn.Conv2d | nn.Linear
    return sum(module.weight.numel() for module in net.modules() if isinstance(module, kinds))


def flop_count(net: BaselineNet) -> int:
    """Multiply-adds of convolutions and linear layers for one image, padding included.

    Not counted: biases, activations, batch and input normalisation. Runs one image of zeros.
    """
    counts = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        positions = output[0, 0].numel()  # 1 after a linear layer
        counts.append(module.weight.numel() // module.weight.shape[0] * len(output[0]) * positions)

    with frozen(net) as counted, torch.no_grad():
        for module in counted.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(count)
        weight = next(counted.parameters())
        counted(torch.zeros(1, *net.input_shape, device=weight.device, dtype=weight.dtype))
    return sum(counts)
