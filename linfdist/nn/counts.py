"""Count a network's parameters and operations as the paper does."""

from torch import nn

from linfdist.nn.distance import LpDist, LpDistConv2d
from linfdist.nn.head import BoundedLinear
from linfdist.system.inputs import image_shape


def parameter_count(net: nn.Module) -> int:
    """The number of weight entries in all dist and linear layers.

    Biases are not counted: the hidden dist layers have none, and without biases the count of a
    fully connected network equals its FLOPs in [Zhang2021, Tables 1 and 5].
    """
    kinds = (LpDist, LpDistConv2d, BoundedLinear)
    return sum(module.weight.numel() for module in net.modules() if isinstance(module, kinds))


def flop_count(net: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Subtractions in the dist layers plus multiply-adds in the head, for one image.

    [Zhang2021, Sec. 7.2]: each pair of a neuron and one of its inputs counts as one, padding
    included.
    Not counted: absolute values, maxima, powers, mean shifts, biases, tanh, normalisation.
    """
    _, height, width = image_shape(input_shape, "flop_count")
    flops = 0
    for module in net.modules():
        if isinstance(module, LpDistConv2d):
            height, width = module.output_size(height, width)
            flops += module.weight.numel() * height * width
        elif isinstance(module, LpDist | BoundedLinear):
            flops += module.weight.numel()
    return flops
