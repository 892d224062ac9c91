"""PVT: a second network that proposes what proves the first one right  [Dvijotham2018]."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from linfdist.baselines.ibp import Trace

START = 4.0  # of the sigmoid in (l + u) / (u − l): near CROWN's choice, with a gradient everywhere


class Verifier(nn.Module):
    """For each ReLU neuron the slope of the line below it, from the bounds of its input.

    Of a neuron of bounds l < 0 < u it is the sigmoid of a r + b, with r = (l + u) / (u − l) in
    (−1, 1) and weights a and b of the neuron's own. Whatever they are the bound holds: every slope
    in [0, 1] is feasible. ``shapes``: of the ReLUs' outputs, without the batch.
    """

    def __init__(self, shapes: Iterable[tuple[int, ...]]) -> None:
        super().__init__()
        shapes = [*shapes]
        self.scale = nn.ParameterList(torch.full(shape, START) for shape in shapes)
        self.shift = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def forward(self, trace: Trace) -> Trace:
        """The pass with proposed slopes, the same in all its bounds."""
        weights = iter(zip(self.scale, self.shift, strict=True))
        steps = []
        for step in trace.steps:
            if isinstance(step.layer, nn.ReLU):
                slope = self.slopes(*next(weights), step.lower, step.upper)
                step = replace(step, below=slope)
            steps.append(step)
        return replace(trace, steps=tuple(steps))

    @staticmethod
    def slopes(scale: Tensor, shift: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """Slopes of one layer; of a stable neuron the ReLU's own, 1 or 0."""
        crossing = (lower < 0) & (upper > 0)
        width = torch.where(crossing, upper - lower, 1.0)  # no gradient of a division by 0
        place = torch.where(crossing, lower + upper, 0.0) / width
        proposed = torch.sigmoid(scale * place + shift)
        return torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, proposed))
