"""The compared methods' networks, from pixels to logits and to certificates."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from linfdist.baselines.cap import cap_margins, polytope
from linfdist.baselines.config import BaselineConfig
from linfdist.baselines.crown import crown_ibp_margins, fused_loss_bound, upper_bounds
from linfdist.baselines.groupsort import unit_linear
from linfdist.baselines.ibp import Trace, interval_trace, merged, unless_overflow
from linfdist.baselines.layers import MaxMin, Residual
from linfdist.baselines.pvt import Verifier
from linfdist.nn import Normalize, check_pixels
from linfdist.system.inputs import (
    channel_means,
    class_count,
    deviation,
    image_shape,
    integer_labels,
)
from linfdist.system.values import shown

# Images that are bounded at once: the matrices of a dual network, from every neuron back to the
# pixels, take about 60 MB an image of MNIST's size for CAP, and 30 MB for COLT's dense layers.
CAP_IMAGES, COLT_IMAGES = 8, 32


class BaselineNet(nn.Module):
    """``features``, normalisation and hidden layers, then the ``last`` linear layer.

    In evaluation mode it can be attacked and certified like the networks of linfdist.nn. To train:
    ``trace`` once a batch, then ``margins`` or ``loss_bound``; the logits of the clean images are
    ``last(trace.clean)``.
    """

    def __init__(
        self,
        config: BaselineConfig,
        features: nn.Sequential,
        last: nn.Linear,
        *,
        input_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.config = config
        channels, height, width = input_shape
        self.input_shape = (channels, height, width)
        self.num_classes = last.out_features
        self.features = features
        self.last = last

    def forward(self, x: Tensor, p: float = math.inf) -> Tensor:
        """Logits, (batch, num_classes), of pixels, (batch, *input_shape).

        There is no l_p distance here: p is taken, as ∞ alone, to be called like a dist net.
        """
        if not (isinstance(p, int | float) and p == math.inf):
            raise ValueError(f"net: p must be inf, because {self.config.kind} has no p; got {p}.")
        check_pixels(x, self.input_shape)
        return self.last(self.features(x))

    def trace(self, lower: Tensor, upper: Tensor, clean: Tensor | None = None) -> Trace:
        """The interval pass to the features on a box of pixels; ``clean`` pixels go along.

        In training mode batch normalisations need ``clean``, and update their running statistics.
        """
        check_pixels(lower, self.input_shape)
        check_pixels(upper, self.input_shape)
        return interval_trace(self.features, lower, upper, clean)

    def margins(self, trace: Trace, labels: Tensor, beta: float = 0.0) -> Tensor:
        """Upper bounds of logit_k − logit_y: ``crown_ibp_margins``, IBP's at β = 0."""
        return crown_ibp_margins(trace, self.last, labels, beta)

    def loss_bound(self, trace: Trace, labels: Tensor, beta: float = 1.0) -> Tensor:
        """Upper bounds of the cross entropy, (batch,): ``fused_loss_bound``."""
        return fused_loss_bound(trace, self.last, labels, beta)

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """Upper bounds of logit_k − logit_y on a box of pixels by intervals, 0 at k = y.

        Shape (batch, num_classes). They hold up to the rounding of the sums of float32; NaN where
        one of these could overflow.
        """
        trace = self.trace(lower, upper)
        return unless_overflow(self.margins(trace, labels), trace, self.last)


def _in_parts(
    bound: Callable[..., Tensor], images: int, lower: Tensor, upper: Tensor, labels: Tensor
) -> Tensor:
    """``bound`` of that many images at a time."""
    labels = integer_labels(labels, lower, "worst_case_margins_on_box")
    parts = zip(*(x.split(images) for x in (lower, upper, labels)), strict=True)
    return torch.cat([bound(*part) for part in parts])


class CapNet(BaselineNet):
    """A network that is bounded by the convex outer polytope, in training and in evaluation."""

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """``cap_margins``, a few images at a time; shape (batch, num_classes)."""
        check_pixels(lower, self.input_shape)
        check_pixels(upper, self.input_shape)
        bound = partial(cap_margins, self.features, self.last)
        return _in_parts(bound, CAP_IMAGES, lower, upper, labels)


class PvtNet(BaselineNet):
    """A network with the ``verifier`` that it is trained with."""

    def __init__(
        self,
        config: BaselineConfig,
        features: nn.Sequential,
        last: nn.Linear,
        *,
        input_shape: tuple[int, int, int],
    ) -> None:
        super().__init__(config, features, last, input_shape=input_shape)
        image = torch.empty(1, *input_shape, device="meta")
        shapes = []
        for layer in copy.deepcopy(features).to("meta"):
            image = layer(image)
            if isinstance(layer, nn.ReLU):
                shapes.append(tuple(image.shape[1:]))
        self.verifier = Verifier(shapes)

    def proven_margins(self, trace: Trace, labels: Tensor) -> Tensor:
        """Upper bounds of logit_k − logit_y by the lines that the verifier proposes."""
        return upper_bounds(self.verifier(trace), *merged(self.last, labels))

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """The proven margins, or intervals where they are tighter; shape (batch, num_classes)."""
        trace = self.trace(lower, upper)
        margins = torch.minimum(self.proven_margins(trace, labels), self.margins(trace, labels))
        return unless_overflow(margins, trace, self.last)


class ColtNet(BaselineNet):
    """A network of convolutions that leave neurons stable, before fully connected layers."""

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """CROWN's lines, or intervals where they are tighter; shape (batch, num_classes).

        The convolutions' neurons are bounded by intervals, the others as CAP's, a few images at a
        time. CROWN chooses a line for each neuron by its bounds: a smaller box is not always
        bounded more tightly.
        """
        check_pixels(lower, self.input_shape)
        check_pixels(upper, self.input_shape)
        return _in_parts(self._tighter, COLT_IMAGES, lower, upper, labels)

    def _tighter(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        trace = polytope(self.features, lower, upper, dense_only=True)
        by_lines = upper_bounds(trace, *merged(self.last, labels))
        margins = torch.minimum(by_lines, self.margins(trace, labels))
        return unless_overflow(margins, trace, self.last)


class GroupSortNet(BaselineNet):
    """Unit rows and MaxMin: every logit is ``lipschitz``-Lipschitz in the pixels, in l_inf.

    On any box the intervals are at least as tight as the Lipschitz constant: no rule widens the
    largest half width of its inputs.
    """

    @property
    def lipschitz(self) -> float:
        normalize = self.features[0]
        assert isinstance(normalize, Normalize)  # build_baseline's first layer
        return normalize.lipschitz


def build_baseline(
    config: BaselineConfig,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: float,
) -> BaselineNet:
    """The network of ``config`` for images of ``input_shape`` (channels, height, width).

    Weights are torch's defaults, but for ``resnet_tiny`` orthogonal with biases of 0, as DiffAI's.
    They come from torch's global generator: seed it first. Under ``torch.device("meta")`` no memory
    is taken.

    Args:
        config: the architecture and its width.
        input_shape: (channels, height, width) of an image.
        num_classes: number of logits.
        mean: one mean pixel per channel, for ``Normalize``.
        std: the standard deviation of all channels, for ``Normalize``.

    Raises:
        TypeError: an argument is of another type: input_shape is three numbers, mean one a channel.
        ValueError: a number is out of its range, or mean has another length.
    """
    if not isinstance(config, BaselineConfig):
        raise TypeError(f"build_baseline: config must be a BaselineConfig; got {shown(config)}.")
    num_classes = class_count(num_classes, "build_baseline")
    input_shape = image_shape(input_shape, "build_baseline")
    mean = channel_means(mean, input_shape[0], "build_baseline")
    std = deviation(std, "build_baseline")
    layout = config.layout
    layers: list[nn.Module] = [Normalize(mean, std)]
    channels, height, width = input_shape
    for index, (out_channels, kernel, stride) in enumerate(layout.convs):
        if config.kind == "resnet_tiny" and index:
            layers.append(_block(channels, out_channels))
        else:
            layers.append(nn.Conv2d(channels, out_channels, kernel, stride, (kernel - 1) // 2))
        if layout.batch_norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.ReLU())
        channels = out_channels
        border = 2 * ((kernel - 1) // 2)
        height, width = ((side + border - kernel) // stride + 1 for side in (height, width))
    if min(height, width) < 1:
        raise ValueError(
            f"build_baseline: input_shape must be large enough for the strides of {config.kind}; "
            f"got {tuple(input_shape)}. Use larger images."
        )
    layers.append(nn.Flatten())
    groupsort = config.kind == "groupsort"
    linear, activation = (unit_linear, MaxMin) if groupsort else (nn.Linear, nn.ReLU)
    features = channels * height * width
    for out_features in layout.hidden:
        layers.extend([linear(features, out_features), activation()])
        features = out_features
    kinds = {"cap": CapNet, "colt": ColtNet, "groupsort": GroupSortNet, "pvt": PvtNet}
    kind = kinds.get(config.kind, BaselineNet)
    last = linear(features, num_classes)
    net = kind(config, nn.Sequential(*layers), last, input_shape=input_shape)
    if config.kind == "resnet_tiny":
        _orthogonal(net)
    return net


def _block(in_channels: int, out_channels: int) -> Residual:
    """A wide block of stride 1, without batch normalisation."""
    return Residual(
        nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        ),
        nn.Sequential(nn.Conv2d(in_channels, out_channels, 1)),
    )


def _orthogonal(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(module.weight)
            assert module.bias is not None  # build_baseline's layers have one
            nn.init.zeros_(module.bias)
