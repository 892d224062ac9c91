"""Evaluate a network without leaving a trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.utils import parametrize


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, and parameters without gradients; both are restored on leaving.

    A parametrised weight, such as GroupSort's projected one, is computed once.
    """
    modes = [(module, module.training) for module in net.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    net.eval()
    net.requires_grad_(False)
    try:
        with parametrize.cached():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, requires_grad in gradients:
            parameter.requires_grad_(requires_grad)
