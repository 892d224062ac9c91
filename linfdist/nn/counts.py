"""Count a network's parameters and operations as the paper does, for every method alike."""

from typing import Any

import torch
from torch import Tensor, nn

from linfdist.nn.distance import LpDist, LpDistConv2d
from linfdist.nn.frozen import frozen
from linfdist.nn.head import BoundedLinear
from linfdist.system.inputs import image_shape

# The layers that count. Their weight's first axis runs over the outputs.
COUNTED = (LpDist, LpDistConv2d, BoundedLinear, nn.Conv2d, nn.Linear)


def parameter_count(net: nn.Module) -> int:
    """The number of weight entries in all distance, convolution and linear layers.

    Biases are not counted: the hidden dist layers have none, and without biases the count of a
    fully connected network equals its FLOPs in [Zhang2021, Tables 1 and 5].
    """
    return sum(module.weight.numel() for module in net.modules() if isinstance(module, COUNTED))


def flop_count(net: nn.Module, input_shape: tuple[int, int, int] | None = None) -> int:
    """Subtractions in dist layers plus multiply-adds in all others, for one image.

    [Zhang2021, Sec. 7.2]: each pair of a neuron and one of its inputs counts as one, padding
    included. Not counted: absolute values, maxima, powers, mean shifts, biases, activations, batch
    and input normalisation. The pass runs on the device meta, where tensors have shapes only.

    ``input_shape`` is (channels, height, width); None stands for ``net.input_shape``.
    """
    shape = image_shape(net.input_shape if input_shape is None else input_shape, "flop_count")
    counts = []

    def count(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        positions = output[0, 0].numel()  # 1 after a layer without axes of space
        counts.append(module.weight.numel() * positions)

    with frozen(net) as counted, torch.no_grad():
        counted.to("meta")
        for module in counted.modules():
            if isinstance(module, COUNTED):
                module.register_forward_hook(count)
        counted(torch.empty(1, *shape, dtype=next(net.parameters()).dtype, device="meta"))
    return sum(counts)
