"""Theorem 4.1 as code: an l_inf-dist network within eps of any given 1-Lipschitz function."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from linfdist.nn import LinfDistNet, LpDist, MeanShift, NetConfig, build_net
from linfdist.system.inputs import check_function, float_tensor, positive
from linfdist.system.values import shown, whole
from linfdist.theory.max_of_pyramids import Box, Pyramids, check_box, evaluate, pyramids
from linfdist.theory.targets import Function
from linfdist.theory.units import selected

SHAPES = ("deep", "paper", "wide")


@dataclass(frozen=True, kw_only=True)
class Approximation:
    """A network that equals ``pyramids`` on their box, up to rounding.

    - ``net`` has the two logits −g(x) and g(x). It takes x in place of an image, with shape
      (n, 1, 1, d). It classifies by the sign of g, and its certified radius is |g(x)|.
    - Called with points of shape (n, d), the approximation returns g itself, of shape (n,).
    - ``offset`` is 2 C, where C bounds the inputs of every neuron.
    - ``rounding`` bounds the error that floating-point arithmetic can add on the box.
    """

    net: LinfDistNet
    pyramids: Pyramids
    shape: str
    offset: float
    rounding: float

    def __call__(self, x: Tensor) -> Tensor:
        if float_tensor(x, "Approximation", "x", 2).shape[1] != self.pyramids.box.d:
            raise ValueError(
                f"Approximation: x must have shape (n, {self.pyramids.box.d}); got "
                f"{tuple(x.shape)}."
            )
        dtype = next(self.net.parameters()).dtype
        with torch.no_grad():
            return self.net(x.to(dtype)[:, None, None, :])[:, 1]

    @property
    def depth(self) -> int:
        """The number of layers of neurons, including the last, which has the logits."""
        return len(self.net.config.hidden) + 1

    @property
    def width(self) -> int:
        """The number of neurons of the widest hidden layer."""
        return max(self.net.config.hidden)

    @property
    def num_weights(self) -> int:
        """The number of weights of all layers, zeros included, without biases."""
        return sum(weight.numel() for weight in self.net.parameters() if weight.ndim == 2)


def depth(d: int, num_pyramids: int, shape: str = "deep") -> int:
    """The number of layers of the network for ``num_pyramids`` pyramids in d dimensions.

    - "paper": 2 d per pyramid, one for each x_j − w_j and w_j − x_j; plus 3.
    - "deep": 2 per pyramid; plus 3.
    - "wide": 3.
    """
    _check_shape(shape, "depth")
    d = whole(d, "depth: d", least=1)
    num_pyramids = whole(num_pyramids, "depth: num_pyramids", least=1)
    return 3 + (0 if shape == "wide" else num_pyramids * len(_pieces(d, shape)))


def num_weights(d: int, num_pyramids: int, shape: str = "deep") -> int:
    """The number of weights of that network, zeros included, without biases."""
    _check_shape(shape, "num_weights")
    d = whole(d, "num_weights: d", least=1)
    num_pyramids = whole(num_pyramids, "num_weights: num_pyramids", least=1)
    if shape == "wide":
        return num_pyramids * (d + 1) + 2
    width = d + 2
    return d * width + (depth(d, num_pyramids, shape) - 2) * width**2 + 2 * width


def paper_bound(box: Box, values: Tensor) -> float:
    """The paper's C = 2 C_1 + C_2, where ‖x‖_∞ ≤ C_1 and |values| ≤ C_2; its offset is 2 C."""
    check_box(box, "paper_bound")
    values = float_tensor(values, "paper_bound", "values")
    if not len(values):
        raise ValueError("paper_bound: values must hold at least one value; got none.")
    return 2 * max(map(abs, box.lower + box.upper)) + values.abs().max().item()


def approximate(
    function: Function,
    box: Box,
    eps: float,
    *,
    shape: str = "deep",
    layout: str = "centred",
    offset: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> Approximation:
    """A ``LinfDistNet`` within eps of ``function`` on all of ``box``  [Zhang2021, Thm. 4.1].

    The shapes:

    - "deep": width d + 2. In each layer, d neurons copy x, one measures a pyramid, which takes two
      layers, and one holds the maximum of the pyramids so far.
    - "paper": the same, but as in the paper's proof: two inputs per maximum, 2 d layers per
      pyramid.
    - "wide": three layers. The first measures the distances to all points at once. One neuron of
      the second takes the maximum.

    Without ``offset`` the network uses the smallest power of two that the proof allows. All neurons
    then compute exactly on a lattice, to which the first layer rounds x. No error grows with the
    depth, and eps includes the bound of the rounding. A given offset, such as the paper's 2 C, is
    used as it is, and eps does not include its rounding.

    Cost: ``depth`` and ``num_weights`` give the size. Building takes about 0.1 ms per layer.

    Args:
        function: takes points, (n, d), to values, (n,); 1-Lipschitz in l_inf.
        box: the box on which the network approximates the function.
        eps: the largest error.
        shape: "deep", "paper" or "wide".
        layout: as in ``pyramids``.
        offset: the neurons' offset; by default the power of two described above.
        dtype: the floating-point type of the network.

    Raises:
        NotLipschitz: sampling finds a pair of points between which ``function`` rises too fast.
        TypeError: an argument is of another type.
        ValueError: eps is too small for the precision of ``dtype`` on this box.
    """
    _check_shape(shape, "approximate")
    check_function(function, "approximate")
    check_box(box, "approximate")
    eps = positive(eps, "approximate", "eps")
    offset = None if offset is None else positive(offset, "approximate", "offset")
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"approximate: dtype must be torch.float32 or torch.float64; got {shown(dtype)}."
        )
    corner = torch.tensor(box.lower, dtype=torch.float64)
    middle = evaluate(function, corner[None] + torch.tensor(box.sides).double() / 2).item()
    # Let S be the longest side. On the box 0 ≤ x − lower ≤ S, and |f − f(middle)| ≤ S / 2 because
    # f is 1-Lipschitz. Distances are at most S, and held values at most 3 S / 2 = C in size.
    power = 2.0 ** math.ceil(math.log2(3 * max(box.sides)))
    precision = torch.finfo(dtype).eps
    # Round to a separate lattice, so that the last biases, ±middle − offset, are exact.
    coarse = precision * 2.0 ** math.ceil(math.log2(power + abs(middle)))
    middle = round(middle / coarse) * coarse
    chosen = power if offset is None else offset
    rounding = precision * (4 * chosen + max(map(abs, box.lower)) + 2 * abs(middle))
    if offset is None and rounding > eps / 2:
        raise ValueError(
            f"approximate: eps must be above {2 * rounding:.2g}, the rounding error of {dtype} on "
            f"this box; got {eps:g}. Pass dtype=torch.float64."
        )
    spared, quantum = (rounding, power * precision) if offset is None else (0.0, 0.0)
    tops = pyramids(function, box, eps - spared, layout=layout, quantum=quantum)
    constant = round((middle + tops.lift) / coarse) * coarse
    distances = tops.points - corner
    heights = tops.values - middle
    if quantum:
        distances, heights = ((part / quantum).round() * quantum for part in (distances, heights))

    if shape == "wide":
        layers = _wide_layers(tops.points, heights, chosen)
    else:
        layers = _deep_layers(corner, distances, heights, _pieces(box.d, shape), chosen)
    net = _network(layers, constant, dtype)
    return Approximation(net=net, pyramids=tops, shape=shape, offset=chosen, rounding=rounding)


def _check_shape(shape: str, caller: str) -> None:
    if shape not in SHAPES:
        raise ValueError(f"{caller}: shape must be one of {', '.join(SHAPES)}; got {shape!r}.")


Layer = tuple[Tensor, Tensor]  # weight, (out, in), and bias, (out,)


def _pieces(d: int, shape: str) -> Tensor:
    """The signs of x in the layers of one pyramid, (layers, d).

    ‖x − w‖_∞ is the largest of the 2 d terms x_j − w_j and w_j − x_j. A neuron has one weight per
    input. One neuron can therefore take all the x_j − w_j, and another all the w_j − x_j. The paper
    takes one of the 2 d terms at a time.
    """
    if shape == "paper":
        one = torch.eye(d, dtype=torch.float64)
        return torch.stack([one, -one], 1).flatten(0, 1)
    return torch.tensor([[1.0] * d, [-1.0] * d], dtype=torch.float64)


def _deep_layers(
    corner: Tensor, points: Tensor, heights: Tensor, pieces: Tensor, offset: float
) -> list[Layer]:
    """All layers, of width d + 2: x − corner, the distance so far, and the maximum so far.

    ``points`` are relative to the lower corner, too. A pyramid's height minus its distance joins
    the maximum in the layer that starts the next distance.
    """
    m, d = points.shape
    width, distance, top = d + 2, d, d + 1
    signs = points.new_zeros(m, len(pieces), width, width)
    shifts = torch.zeros_like(signs)
    signs[..., range(d), range(d)] = 1
    signs[:, :, distance, :d] = pieces
    shifts[:, :, distance, :d] = -pieces * points.unsqueeze(1)
    signs[:, 1:, distance, distance] = 1
    signs[:, :, top, top] = 1
    signs[1:, 0, top, distance] = -1
    shifts[1:, 0, top, distance] = heights[:-1]
    signs, shifts = signs.flatten(0, 1), shifts.flatten(0, 1)

    end = torch.eye(width, dtype=signs.dtype)[None]
    end_shifts = torch.zeros_like(end)
    end[0, top, distance], end_shifts[0, top, distance] = -1, heights[-1]
    signs, shifts = torch.cat([signs, end]), torch.cat([shifts, end_shifts])
    # Before the first pyramid the maximum holds no pyramid's value; do not carry it on.
    signs[len(pieces), top, top] = 0

    first = points.new_zeros(width, d)
    first[range(d), range(d)] = 1
    first[d:, 0] = 1
    weights = selected(signs, shifts, offset)
    biases = points.new_full((width,), -offset)
    layers = [(corner + selected(first, torch.zeros_like(first), offset), biases)]
    return [*layers, *((weight, biases) for weight in weights), _last(width, top, offset)]


def _wide_layers(points: Tensor, heights: Tensor, offset: float) -> list[Layer]:
    """The layers: all distances minus their heights, then the negative of their minimum."""
    # Twice the offset rounds to a lattice on which the last layer is exact for both signs.
    offsets = points.new_full((1,), 2 * offset)
    least = selected(-torch.ones(1, len(points), dtype=points.dtype), torch.zeros(()), 2 * offset)
    return [
        (points, -heights),
        (least, -offsets),
        _last(1, 0, offset),
    ]


def _last(width: int, top: int, offset: float) -> Layer:
    """The last layer: the held maximum and its negative."""
    signs = torch.zeros(2, width, dtype=torch.float64)
    signs[:, top] = torch.tensor([1.0, -1.0])
    return selected(signs, torch.zeros_like(signs), offset), signs.new_full((2,), -offset)


def _network(layers: list[Layer], constant: float, dtype: torch.dtype) -> LinfDistNet:
    """The layers as a network in evaluation mode, with ``constant`` added to the maximum.

    A hidden layer's bias is its mean shift.
    """
    widths = tuple(len(weight) for weight, _ in layers[:-1])
    d = layers[0][0].shape[1]
    with torch.random.fork_rng(devices=[]):
        net = build_net(
            NetConfig(kind="net", hidden=widths, identity_value=None),
            input_shape=(1, 1, d),
            num_classes=2,
            mean=(0.0,),
            std=1.0,
        )
    assert isinstance(net, LinfDistNet)  # by its kind
    net = net.to(dtype).eval()
    # load_state_dict would take time quadratic in the number of modules.
    hidden = [layer for layer in net.features.layers if isinstance(layer, LpDist)]
    means = [layer.running_mean for layer in net.features.layers if isinstance(layer, MeanShift)]
    assert net.last.bias is not None  # build_net's last layer has one
    with torch.no_grad():
        for layer, (weight, _) in zip([*hidden, net.last], layers, strict=True):
            layer.weight.copy_(weight)
        for mean, (_, bias) in zip(means, layers[:-1], strict=True):
            mean.copy_(-bias)
        net.last.bias.copy_(layers[-1][1] + layers[-1][1].new_tensor([constant, -constant]))
    return net
