"""l_inf-distances and whole l_inf-dist nets as fully connected ReLU networks.

[Zhang2021, Lemmas A.7 and A.8]. ‖x − w‖_∞ is the maximum of the 2d items x_i − w_i and w_i − x_i.
Every hidden layer halves their number:

- the paper's: max{a, b} = ReLU(a − b) + ReLU(b) − ReLU(−b), 3 neurons per pair;
- lean: |v| = ReLU(v) + ReLU(−v) in the first layer, 2 neurons per input. Every item is at least 0
  after that, so max{a, b} = ReLU(a − b) + ReLU(b), 2 neurons per pair.

If the number of items is odd, one item is left over. It is at least 0 after the first layer, so one
neuron, ReLU(a) = a, carries it on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from linfdist.nn import LinfDistNet, LpDist, MeanShift
from linfdist.system.inputs import float_tensor, wholes
from linfdist.system.values import shown


@dataclass(frozen=True, kw_only=True)
class ReLUSize:
    """The size of a ReLU network.

    - ``widths``: of its input, its hidden layers and its output.
    - ``edges``: for each layer except the input, the number of weights that the construction does
      not leave at 0.
    """

    widths: tuple[int, ...]
    edges: tuple[int, ...]

    @property
    def depth(self) -> int:
        """The number of hidden layers."""
        return len(self.widths) - 2

    @property
    def width(self) -> int:
        """The widest hidden layer."""
        return max(self.widths[1:-1])

    @property
    def neurons(self) -> int:
        """All hidden neurons."""
        return sum(self.widths[1:-1])

    @property
    def layer_parameters(self) -> tuple[int, ...]:
        """Weights and biases of each layer, fully connected."""
        return tuple(out * (inputs + 1) for inputs, out in pairwise(self.widths))

    @property
    def sparse_layer_parameters(self) -> tuple[int, ...]:
        """Weights that are not 0 by construction, and all biases, of each layer."""
        return tuple(e + out for e, out in zip(self.edges, self.widths[1:], strict=True))

    @property
    def parameters(self) -> int:
        """All weights and biases, fully connected."""
        return sum(self.layer_parameters)


def relu_size(widths: Sequence[int], *, lean: bool = False) -> ReLUSize:
    """The size of the ReLU network of an l_inf-dist net of ``widths``, without building it.

    ``widths`` are the input's width, then every dist layer's.

    - (d, 1) is one neuron, Lemma A.7. Its ReLU network has 1 + ⌈log2 d⌉ hidden layers of at most 3d
      neurons (lean: 2d).
    - The ReLU network of a net of L layers and width W has at most L (1 + ⌈log2 W⌉) hidden layers
      of at most 3W² neurons (lean: 2W²).
    """
    widths = check_widths(widths, "relu_size")
    first, pair = (2, 2) if lean else (3, 3)
    sizes, edges, fan = [widths[0]], [], 1
    for inputs, out in pairwise(widths):
        sizes.append(first * inputs * out)
        edges.append(sizes[-1] * fan)
        items = [first] * inputs  # the number of neurons whose sum each item is
        while len(items) > 1:
            halves = list(zip(items[::2], items[1::2], strict=False))
            odd = items[-1:] if len(items) % 2 else []
            sizes.append(out * (pair * len(halves) + len(odd)))
            edges.append(out * (sum(a + pair * b for a, b in halves) + sum(odd)))
            items = [pair] * len(halves) + [1] * len(odd)
        (fan,) = items
    return ReLUSize(widths=(*sizes, widths[-1]), edges=(*edges, widths[-1] * fan))


def linf_relu(weight: Tensor, *, lean: bool = False) -> nn.Sequential:
    """‖x − w_j‖_∞ of every row w_j of ``weight`` by linear layers and ReLU  [Zhang2021, Lemma A.7].

    ``weight``, (out_features, in_features), becomes buffers of the weight's dtype. x of shape
    (..., in_features) becomes (..., out_features). The networks of the rows stand side by side.
    Their size is ``relu_size((in_features, out_features))``. The result is exact if sums of inputs
    and weights are exact, as for integers. Otherwise the error is at most
    20 eps (1 + depth) (‖x‖_∞ + ‖w‖_∞).

    Raises ValueError for a weight that is not (out_features, in_features), both at least 1.
    """
    weight = float_tensor(weight, "linf_relu", "weight")
    if weight.dim() != 2 or weight.numel() == 0:
        raise ValueError(
            "linf_relu: weight must have shape (out_features, in_features), both at least 1; got "
            f"{tuple(weight.shape)}. For a single neuron pass weight.unsqueeze(0)."
        )
    items = _Items.of_input(weight.shape[1], weight)
    layers: list[nn.Module] = []
    items = _distance(items, weight.detach(), layers, lean)
    return nn.Sequential(*layers, items.linear())


def to_relu(net: LinfDistNet, *, lean: bool = False) -> nn.Sequential:
    """A whole l_inf-dist net at p = ∞ as one ReLU network  [Zhang2021, Lemma A.8].

    The network takes pixels of shape (batch, *input_shape) and returns the logits of ``net`` in
    evaluation mode. Normalisation, mean shifts, the last bias and the sign are folded into the
    linear layers. The hidden layers have the sizes of ``relu_size``. The layers are dense, so this
    is for small nets.

    Raises TypeError for a net that is not a ``LinfDistNet``.
    """
    if not isinstance(net, LinfDistNet):
        raise TypeError(
            f"to_relu: net must be a LinfDistNet; got {type(net).__name__}, whose head is not made "
            "of distances. Pass the widths of its features to relu_size."
        )
    weight = net.last.weight.detach()
    normalize = net.features.normalize
    pixels = torch.ones(net.input_shape, dtype=weight.dtype, device=weight.device)
    std = float(normalize.divisor)
    items = _Items.of_input(pixels.numel(), weight).scaled(1 / std)
    items = items.shifted(-(pixels * normalize.mean).flatten() / std)
    layers: list[nn.Module] = [nn.Flatten()]
    for layer in net.features.layers:
        if isinstance(layer, LpDist):
            items = _distance(items, layer.weight.detach(), layers, lean)
        elif isinstance(layer, MeanShift):
            items = items.shifted(-layer.running_mean)
    assert net.last.bias is not None  # build_net's last layer has one
    items = _distance(items, weight, layers, lean).shifted(net.last.bias.detach())
    return nn.Sequential(*layers, items.scaled(-1).linear())


def relu_interval(net: nn.Sequential, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of a ReLU network's outputs on the box lower <= x <= upper  [Zhang2021, Eqs. 19, 20].

    ``net``: linear layers, ReLU and ``nn.Flatten``; shapes as in ``net(lower)``.
    """
    if not isinstance(net, nn.Sequential):
        raise TypeError(f"relu_interval: net must be an nn.Sequential; got {shown(net)}.")
    lower = float_tensor(lower, "relu_interval", "lower")
    upper = float_tensor(upper, "relu_interval", "upper")
    if lower.shape != upper.shape:
        raise ValueError(
            "relu_interval: lower and upper must have one shape; got "
            f"{tuple(lower.shape)} and {tuple(upper.shape)}."
        )
    for layer in net:
        if isinstance(layer, nn.Linear):
            middle, radius = layer((lower + upper) / 2), (upper - lower) / 2
            radius = nn.functional.linear(radius, layer.weight.abs())
            lower, upper = middle - radius, middle + radius
        else:
            lower, upper = layer(lower), layer(upper)
    return lower, upper


def check_widths(widths: Sequence[int], caller: str) -> tuple[int, ...]:
    """The widths of a net: the input's and at least one layer's; raises for anything else."""
    widths = wholes(widths, caller, "widths")
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(
            f"{caller}: widths must be the width of the input and of at least one layer, each at "
            f"least 1; got {tuple(widths)}. One neuron of 784 inputs is (784, 1)."
        )
    return widths


@dataclass(frozen=True)
class _Items:
    """Numbers as affine maps of the last hidden layer: ``matrix`` h + ``offset``."""

    matrix: Tensor
    offset: Tensor

    @classmethod
    def of_input(cls, size: int, like: Tensor) -> "_Items":
        eye = torch.eye(size, dtype=like.dtype, device=like.device)
        return cls(eye, eye.new_zeros(size))

    def scaled(self, factor: float) -> "_Items":
        return _Items(self.matrix * factor, self.offset * factor)

    def shifted(self, offset: Tensor) -> "_Items":
        return _Items(self.matrix, self.offset + offset)

    def mapped(self, matrix: Tensor) -> "_Items":
        return _Items(matrix @ self.matrix, matrix @ self.offset)

    def linear(self) -> nn.Linear:
        out, inputs = self.matrix.shape
        layer = nn.Linear(inputs, out, dtype=self.matrix.dtype, device=self.matrix.device)
        with torch.no_grad():
            layer.weight.copy_(self.matrix)
            layer.bias.copy_(self.offset)
        return layer.requires_grad_(False)


def _distance(items: _Items, weight: Tensor, layers: list[nn.Module], lean: bool) -> _Items:
    """Append the hidden layers of ‖items − w_j‖_∞ to ``layers``; return the distances as items."""
    out, count = weight.shape
    table = weight.new_tensor

    def hidden(items: _Items, each: Tensor, read: Tensor, copies: int) -> _Items:
        eye = torch.eye(copies, dtype=weight.dtype, device=weight.device)
        layers.extend([items.mapped(torch.kron(eye, each)).linear(), nn.ReLU()])
        matrix = torch.kron(eye, read)
        return _Items(matrix, matrix.new_zeros(len(matrix)))

    # Every difference v = x_i − w_ji of every neuron j, then its absolute value: the pair v, −v has
    # max{v, −v} = ReLU(2v) + ReLU(−v) − ReLU(v).
    differences = _Items(items.matrix.repeat(out, 1), items.offset.repeat(out) - weight.flatten())
    signs, read = ([1, -1], [1, 1]) if lean else ([2, -1, 1], [1, 1, -1])
    items = hidden(differences, table(signs).unsqueeze(1), table([read]), out * count)

    pair, read = ([[1, -1], [0, 1]], [1, 1]) if lean else ([[1, -1], [0, 1], [0, -1]], [1, 1, -1])
    one = table([[1]])
    while count > 1:
        pairs, odd = [table(pair)] * (count // 2), [one] * (count % 2)
        reads = [table([read])] * (count // 2)
        each, back = torch.block_diag(*pairs, *odd), torch.block_diag(*reads, *odd)
        items, count = hidden(items, each, back, out), len(back)
    return items
