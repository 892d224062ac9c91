"""The true robust radius of a small l_inf-dist Net, by branch and bound over its neurons.

R(x) is the least ‖x' − x‖_∞ of an image x' in [0, 1]^d at which the logit of label y is not the
single largest one. R is defined in real numbers, for the stored weights, running means, mean and
std.

**Boxes.** A box bounds every pixel and the output z_j = max_i |x_i − w_ji| − m_j of every neuron.
Logits are minus the last outputs, so class k beats y where z_k ≤ z_y. The conclusions of
``tighten`` keep every point of the box at which k beats y:

- up: the interval pass bounds z by the inputs;
- across: z_k is at most the upper bound of z_y, and z_y at least the lower bound of z_k;
- down, z_j ≤ u: all |x_i − w_ji| ≤ u + m_j, which is a box of inputs;
- down, z_j ≥ l: one of the 2 n literals x_i ≥ w_ji + l + m_j, x_i ≤ w_ji − l − m_j holds; if the
  bounds leave only one literal possible, that one holds.

A box with lower > upper somewhere holds no point at which k beats y, and is done.

**Branching** splits one interval of a box in two, without losing a point:

- First it splits the *gap* between the lower bound of z_y and the upper bound of z_k: at the middle
  c of the gap, either z_k ≤ c or z_y ≥ c.
- Once the gap is small, it takes a bound z_j ≥ l that the interval pass does not grant yet, and
  splits the interval of one x_i at a literal of that bound.

If no such bound is left, every point of the pixel box satisfies every bound, and the gap alone
limits by how much z_k ≤ z_y can fail. If all boxes are done, no image within r is beaten.

**Rounding.** The search computes in float64 and steps outward after every rounding
(``boxes.outward``). A box therefore holds all its points of real numbers, and a point counts as
beaten only if bounds of its own outputs prove it. Both ends of the result are proven. The float32
network may differ by its rounding.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linfdist.nn import LinfDistNet, LpDist, MeanShift
from linfdist.ops import linf_interval
from linfdist.ops.float_mode import check_float_mode
from linfdist.robust.boxes import attack_box, outward, pixel_box
from linfdist.robust.certificates import interval_radius
from linfdist.robust.checks import check_finite, check_images, check_net
from linfdist.system.inputs import real
from linfdist.system.values import shown, whole

BOXES = 128  # boxes in one batch
SWEEPS = 3  # passes up the net for each box, with one pass down between two of them
GRANTED = 1e-10  # tolerance of a granted bound; it affects only the choice of splits
NARROW = 1e-9  # a gap this small is not halved further
NONE = 2**31  # the count of literals for a neuron whose bound is granted


@dataclass(frozen=True, eq=False)
class ExactRadius:
    """lower ≤ R ≤ upper, in pixels; both are infinite if no image in [0, 1]^d beats y.

    Args:
        lower: proven lower bound of R.
        upper: proven upper bound of R.
        nodes: number of boxes examined.
        decided: whether upper − lower is at most the tolerance.
        adversarial: a beaten image at most ``upper`` away, in float64; None if none was found.
    """

    lower: float
    upper: float
    nodes: int
    decided: bool
    adversarial: Tensor | None


@dataclass(frozen=True, eq=False)
class Decision:
    """Whether an image within r is beaten, such an image and its distance; None if undecided."""

    beaten: bool | None
    nodes: int
    adversarial: Tensor | None = None
    distance: float = math.inf


def exact_radius(
    net: LinfDistNet,
    image: Tensor,
    label: int,
    *,
    tolerance: float = 1e-3,
    max_nodes: int = 20_000,
) -> ExactRadius:
    """Bounds of R, at most ``tolerance`` apart if ``max_nodes`` boxes suffice.

    The search decides for several r whether an image within r is beaten. The first r is the radius
    that the interval pass certifies. Further r follow in growing steps, then by bisection. Once
    ``max_nodes`` boxes are spent, the result holds the bounds proven so far, and ``decided`` is
    False. Cost: for hidden widths (16, 16) on 64 pixels mostly 10 to 300 boxes; in the worst case
    exponential.

    Args:
        net: an l_inf-dist Net on the CPU.
        image: pixels in [0, 1], shape input_shape.
        label: the class y of the image.
        tolerance: the largest upper − lower at which the search stops, in pixels.
        max_nodes: the largest number of boxes.

    Raises:
        TypeError: the network is not a LinfDistNet, the image is not floating point, or another
            argument is not a number.
        ValueError: image, label or weights are invalid; the tolerance is below 1e-6 or max_nodes
            below 1.
    """
    tolerance = real(tolerance, "exact_radius", "tolerance")
    max_nodes = whole(max_nodes, "exact_radius: max_nodes", least=None)
    if not tolerance >= 1e-6:
        raise ValueError(f"exact_radius: tolerance must be at least 1e-6 pixels; got {tolerance}.")
    if max_nodes < 1:
        raise ValueError(f"exact_radius: max_nodes must be at least 1; got {max_nodes}.")
    search = Search(net, image, label, "exact_radius")
    pixels = image.detach().to(net.last.weight.dtype)[None]
    guess = interval_radius(net, pixels, torch.tensor([search.label], device="cpu"), 1.0, 20)
    lower, upper, nodes, nearest = 0.0, math.inf, 0, None
    probe, step = float(guess), tolerance
    while upper - lower > tolerance and nodes < max_nodes:
        decision = search.decide(probe, max_nodes - nodes, gap=tolerance)
        nodes += decision.nodes
        if decision.beaten is None:
            break
        if decision.beaten:
            upper, nearest = decision.distance, decision.adversarial
        else:
            lower = probe
        if lower >= 1:  # the ball is all of [0, 1]^d
            return ExactRadius(math.inf, math.inf, nodes, True, None)
        probe = min(lower + step, 1.0) if upper == math.inf else (lower + upper) / 2
        step *= 2
    return ExactRadius(lower, upper, nodes, upper - lower <= tolerance, nearest)


@dataclass(frozen=True, eq=False)
class _Layer:
    """z_j = max_i |x_i − w_ji| − m_j; a box bounds x in columns ``inputs``, z in ``outputs``."""

    weight: Tensor
    shift: Tensor
    inputs: slice
    outputs: slice

    def up(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of z for x in the box."""
        lower, upper = outward(*linf_interval(lower, upper, self.weight))
        return outward(lower.clamp_min(0) - self.shift, upper - self.shift)

    def ball(self, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The box of all x at which every z is at most ``upper``."""
        distance = outward(upper, upper + self.shift)[1].unsqueeze(2)
        lower, upper = outward(self.weight - distance, self.weight + distance)
        return lower.amax(1), upper.amin(1)

    def literals(self, lower: Tensor) -> tuple[Tensor, Tensor]:
        """z_j ≥ lower_j if and only if x_i ≥ above_ji or x_i ≤ below_ji for some i."""
        distance = outward(lower + self.shift, lower)[0].unsqueeze(2)
        return outward(self.weight + distance, self.weight - distance)


def _layers(net: LinfDistNet) -> list[_Layer]:
    distances = [layer for layer in net.features.layers if isinstance(layer, LpDist)] + [net.last]
    shifts = [layer.running_mean for layer in net.features.layers if isinstance(layer, MeanShift)]
    layers, first = [], 0
    assert net.last.bias is not None  # build_net's last layer has one
    for distance, shift in zip(distances, [*shifts, -net.last.bias], strict=True):
        middle = first + distance.in_features
        last = middle + distance.out_features
        weight, shift = distance.weight.detach().double(), shift.detach().double()
        layers.append(_Layer(weight, shift, slice(first, middle), slice(middle, last)))
        first = middle
    return layers


class Search:
    """The search for one image and its label; a box is a row of bounds of all neurons."""

    def __init__(self, net: LinfDistNet, image: Tensor, label: int, caller: str) -> None:
        check_net(net, caller)
        if not isinstance(net, LinfDistNet):
            raise TypeError(
                f"{caller}: net must be a LinfDistNet, all of whose layers are distances; got "
                f"{type(net).__name__}. Use interval_radius."
            )
        if not isinstance(image, Tensor):
            raise TypeError(
                f"{caller}: image must be a torch.Tensor of pixels; got {shown(image)}. Use "
                "torch.as_tensor."
            )
        if image.shape != net.input_shape:
            raise ValueError(
                f"{caller}: image must have the shape {net.input_shape}, one image without a "
                f"batch; got {tuple(image.shape)}."
            )
        if image.device.type != "cpu":
            raise ValueError(
                f"{caller}: image must be on the CPU, where the search runs; got {image.device}. "
                "Move it and the network with .cpu()."
            )
        if isinstance(label, Tensor) and label.ndim == 0 and not label.is_meta:
            label = label.item()
        self.label = label = whole(label, f"{caller}: label", least=None)
        check_images(net, image[None], np.array([label]), caller, any_precision=True)
        check_finite(net, caller)
        check_float_mode(caller, image.device)
        self.layers = _layers(net)
        self.image = image.detach().double().flatten()
        normalize = net.features.normalize
        self.mean = normalize.mean.double().expand(net.input_shape).flatten()
        self.std = normalize.divisor.double()
        self.first_output = self.layers[-1].outputs.start
        self.own, self.shape = self.first_output + label, net.input_shape

    def decide(self, r: float, max_nodes: int, *, gap: float = 1e-3) -> Decision:
        """Whether an image of [0, 1]^d within r is beaten; gaps above ``gap`` pixels come first."""
        lower, upper, rival = self._root(r)
        nodes, left_open = 0, False
        while len(rival):
            if nodes >= max_nodes:
                return Decision(None, nodes)
            last = slice(-min(BOXES, max_nodes - nodes), None)
            rest = (lower[: last.start], upper[: last.start], rival[: last.start])
            lower, upper, rival = lower[last].clone(), upper[last].clone(), rival[last]
            nodes += len(rival)
            granted = self.tighten(lower, upper, rival)
            alive = ~(lower > upper).any(1)  # NaN bounds prove nothing, so such a box stays alive
            lower, upper, rival = lower[alive], upper[alive], rival[alive]
            beaten, distance = self._beaten(lower, upper, r)
            if beaten is not None:
                return Decision(True, nodes, beaten.view(self.shape), distance)
            children, stuck = self._branch(lower, upper, rival, granted[alive], gap)
            left_open |= stuck
            lower, upper, rival = (torch.cat(part) for part in zip(rest, *children, strict=True))
        return Decision(None if left_open else False, nodes)

    def _root(self, r: float) -> tuple[Tensor, Tensor, Tensor]:
        """The ball, with one row per class that could beat the label."""
        lower, upper = pixel_box(self.image.unsqueeze(0), self.image.new_tensor(r))
        ball = self._normalized(lower[0], upper[0])
        columns = range(self.first_output, self.layers[-1].outputs.stop)
        rival = torch.tensor([column for column in columns if column != self.own], device="cpu")
        unknown = ball[0].new_full((columns.stop - len(self.image),), math.inf)
        lower, upper = torch.cat((ball[0], -unknown)), torch.cat((ball[1], unknown))
        return lower.repeat(len(rival), 1), upper.repeat(len(rival), 1), rival

    def _normalized(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = outward(lower - self.mean, upper - self.mean)
        return outward(lower / self.std, upper / self.std)

    def tighten(self, lower: Tensor, upper: Tensor, rival: Tensor) -> Tensor:
        """Tighten bounds in place; return the lower bounds that the last pass up granted."""
        granted, rival = lower.clone(), rival.unsqueeze(1)
        for sweep in range(SWEEPS):
            for layer in reversed(self.layers) if sweep else ():
                x_lower, x_upper = lower[:, layer.inputs], upper[:, layer.inputs]
                least, most = layer.ball(upper[:, layer.outputs])
                x_lower.copy_(torch.maximum(x_lower, least))
                x_upper.copy_(torch.minimum(x_upper, most))
                above, below = layer.literals(lower[:, layer.outputs])
                up, down = x_upper.unsqueeze(1) >= above, x_lower.unsqueeze(1) <= below
                only = (up.sum(2) + down.sum(2) == 1).unsqueeze(2)
                least = above.where(only & up, -math.inf).amax(1)
                most = below.where(only & down, math.inf).amin(1)
                x_lower.copy_(torch.maximum(x_lower, least))
                x_upper.copy_(torch.minimum(x_upper, most))
            for layer in self.layers:
                low, high = layer.up(lower[:, layer.inputs], upper[:, layer.inputs])
                granted[:, layer.outputs] = low
                lower[:, layer.outputs] = torch.maximum(lower[:, layer.outputs], low)
                upper[:, layer.outputs] = torch.minimum(upper[:, layer.outputs], high)
            most = torch.minimum(upper.gather(1, rival), upper[:, [self.own]])
            upper.scatter_(1, rival, most)
            lower[:, self.own] = torch.maximum(lower[:, self.own], lower.gather(1, rival)[:, 0])
        return granted

    def _beaten(self, lower: Tensor, upper: Tensor, r: float) -> tuple[Tensor | None, float]:
        """The nearest beaten point among each box's middle and its point nearest to the image."""
        if not len(lower):
            return None, math.inf
        lower, upper = (end[:, self.layers[0].inputs] for end in (lower, upper))
        nearest = ((self.image - self.mean) / self.std).clamp(lower, upper)
        points = torch.cat((nearest, (lower + upper) / 2)) * self.std + self.mean
        points = points.clamp(*attack_box(self.image, r))
        outputs = self._normalized(points, points)
        for layer in self.layers:
            outputs = layer.up(*outputs)
        label = self.own - self.first_output
        least, most = outputs[0][:, label], outputs[1]
        most[:, label] = math.inf
        points = points[most.amin(1) <= least]
        if not len(points):
            return None, math.inf
        distance, row = (points - self.image).abs().amax(1).min(0)
        return points[row], math.nextafter(float(distance), math.inf) if distance else 0.0

    def _branch(
        self, lower: Tensor, upper: Tensor, rival: Tensor, granted: Tensor, gap: float
    ) -> tuple[list[tuple[Tensor, Tensor, Tensor]], bool]:
        """The two halves of each box, and whether a box is left that cannot be halved."""
        literals, column, value = self._literal(lower, upper, granted)
        width = upper.gather(1, rival.unsqueeze(1))[:, 0] - lower[:, self.own]
        stuck = (literals == NONE) & (width <= NARROW)
        by_gap = ((literals == NONE) | (width > gap / 4 / float(self.std))) & ~stuck
        own = torch.full_like(rival, self.own)
        middle = lower[:, self.own] + width / 2
        # One half bounds column ``below`` from above by the value, the other ``above`` from below.
        below, above = torch.where(by_gap, rival, column), torch.where(by_gap, own, column)
        value = torch.where(by_gap, middle, value).unsqueeze(1)
        left = lower, upper.scatter(1, below.unsqueeze(1), value), rival
        right = lower.scatter(1, above.unsqueeze(1), value), upper, rival
        halves = [(low[~stuck], high[~stuck], k[~stuck]) for low, high, k in (left, right)]
        return halves, bool(stuck.any())

    def _literal(self, lower: Tensor, upper: Tensor, granted: Tensor) -> tuple[Tensor, ...]:
        """The literal with the most room, of the neuron with the fewest possible literals.

        Returns the number of possible literals, the column of the input and the value at which to
        split it.
        """
        rows = torch.arange(len(lower), device="cpu")
        fewest = torch.full_like(rows, NONE)
        column, value = torch.zeros_like(rows), lower.new_zeros(len(rows))
        for layer in self.layers:
            above, below = layer.literals(lower[:, layer.outputs])
            x_lower, x_upper = lower[:, layer.inputs], upper[:, layer.inputs]
            room = torch.cat((x_upper.unsqueeze(1) - above, below - x_lower.unsqueeze(1)), 2)
            wanted = lower[:, layer.outputs] > granted[:, layer.outputs] + GRANTED
            count, neuron = (room >= 0).sum(2).masked_fill(~wanted, NONE).min(1)
            index = room[rows, neuron].argmax(1)
            split = torch.cat((above, below), 2)[rows, neuron, index]
            better = count < fewest
            fewest = torch.where(better, count, fewest)
            column = torch.where(better, layer.inputs.start + index % layer.weight.shape[1], column)
            value = torch.where(better, split, value)
        return fewest, column, value
