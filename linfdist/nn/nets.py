"""l_inf-dist Net and l_inf-dist Net+MLP, fully connected or convolutional."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linfdist.nn.config import NetConfig
from linfdist.nn.distance import LpDist, LpDistConv2d
from linfdist.nn.head import BoundedLinear, BoundedTanh, sums_hold
from linfdist.nn.logsumexp import LogSumExp
from linfdist.nn.mean_shift import MeanShift
from linfdist.nn.normalize import Normalize
from linfdist.system.inputs import (
    channel_means,
    class_count,
    deviation,
    image_shape,
    integer_labels,
)
from linfdist.system.values import shown, whole


def check_pixels(x: Tensor, input_shape: tuple[int, int, int]) -> None:
    """Refuse anything except pixels of shape (batch, *input_shape)."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else shown(x)
        raise TypeError(
            f"net: pixels must be floating point in [0, 1]; got {got}. Convert images with "
            "linfdist.data.to_pixels."
        )
    if tuple(x.shape[1:]) != input_shape:
        raise ValueError(
            f"net: pixels must have shape (batch, {', '.join(map(str, input_shape))}); got "
            f"{tuple(x.shape)}."
        )


class DistFeatures(nn.Module):
    """The robust feature extractor: normalisation, then dist layers that a mean shift follows.

    x, pixels of shape (batch, *input_shape), becomes (batch, out_features). At p = ∞ in evaluation
    mode the map from pixels to features is ``lipschitz``-Lipschitz in l_inf  [Zhang2021, Fact 3.4].
    """

    def __init__(
        self,
        config: NetConfig,
        *,
        input_shape: tuple[int, int, int],
        mean: Sequence[float],
        std: float,
    ) -> None:
        super().__init__()
        if not isinstance(config, NetConfig):
            raise TypeError(f"build_net: config must be a NetConfig; got {shown(config)}.")
        self.input_shape = input_shape = image_shape(input_shape, "build_net")
        mean = channel_means(mean, input_shape[0], "build_net")
        self.normalize = Normalize(mean, deviation(std, "build_net"))
        self.layers = nn.ModuleList()
        channels, height, width = input_shape
        layer: LpDist | LpDistConv2d
        for out_channels, stride in config.channels:
            layer = LpDistConv2d(
                channels, out_channels, 3, stride, 1, identity_value=config.identity_value
            )
            height, width = layer.output_size(height, width)
            channels = out_channels
            self.layers.extend([layer, MeanShift(channels)])
        self.layers.append(nn.Flatten())
        features = channels * height * width
        for out_features in config.hidden:
            layer = LpDist(features, out_features, identity_value=config.identity_value)
            features = out_features
            self.layers.extend([layer, MeanShift(features)])
        self.out_features = features

    @property
    def lipschitz(self) -> float:
        return self.normalize.lipschitz

    def forward(self, x: Tensor, p: float | LogSumExp = math.inf) -> Tensor:
        check_pixels(x, self.input_shape)
        x = self.normalize(x)
        for layer in self.layers:
            x = layer(x, p) if isinstance(layer, LpDist | LpDistConv2d) else layer(x)
        return x

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of every feature at p = ∞ on the box lower <= pixels <= upper."""
        check_pixels(lower, self.input_shape)
        check_pixels(upper, self.input_shape)
        lower, upper = self.normalize.interval(lower, upper)
        layer: Any  # every layer except Flatten has ``interval``
        for layer in self.layers:
            if isinstance(layer, nn.Flatten):
                lower, upper = layer(lower), layer(upper)
            else:
                lower, upper = layer.interval(lower, upper)
        return lower, upper


class LinfDistNet(nn.Module):
    """l_inf-dist Net: features, then a last dist layer with a bias; logits are minus its output.

    At p = ∞ the net is 1-Lipschitz in its own units. From pixels to each logit its Lipschitz
    constant is therefore ``lipschitz`` = 1 / std.
    """

    def __init__(self, config: NetConfig, features: DistFeatures, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.features = features
        self.last = LpDist(features.out_features, num_classes, bias=True, identity_value=None)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.features.input_shape

    @property
    def lipschitz(self) -> float:
        return self.features.lipschitz

    def forward(self, x: Tensor, p: float | LogSumExp = math.inf) -> Tensor:
        """Logits, (batch, num_classes), of pixels, (batch, *input_shape)."""
        return -self.last(self.features(x, p), p)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the logits at p = ∞ on the box lower <= pixels <= upper."""
        low, high = self.last.interval(*self.features.interval(lower, upper))
        return -high, -low

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """Upper bounds of logit_k − logit_y at p = ∞ on the box, 0 at k = y; (batch, num_classes).

        Rounding never breaks the bounds: subtraction, absolute value and maximum are monotone in
        floating point. The bounds hold for the logits that ``forward`` computes in the same
        precision.
        """
        labels = integer_labels(labels, lower, "worst_case_margins_on_box")
        low, high = self.interval(lower, upper)
        column = labels.unsqueeze(1)
        return (high - low.gather(1, column)).scatter(1, column, 0.0)


class LinfDistNetMLP(nn.Module):
    """l_inf-dist Net+MLP: robust features, then a two-layer tanh head  [Zhang2021, Sec. 6].

    At p = ∞ the map from pixels to features has the Lipschitz constant ``feature_lipschitz`` =
    1 / std. The head is a conventional network, bounded by IBP.
    """

    def __init__(self, config: NetConfig, features: DistFeatures, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.features = features
        hidden = whole(config.mlp_hidden, "build_net: mlp_hidden", least=1)
        self.fc1 = BoundedLinear(features.out_features, hidden)
        self.tanh = BoundedTanh()
        self.fc2 = BoundedLinear(hidden, num_classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.features.input_shape

    @property
    def feature_lipschitz(self) -> float:
        return self.features.lipschitz

    def head(self, features: Tensor) -> Tensor:
        """The logits of the given features."""
        return self.fc2(self.tanh(self.fc1(features)))

    def forward(self, x: Tensor, p: float | LogSumExp = math.inf) -> Tensor:
        """Logits, (batch, num_classes), of pixels, (batch, *input_shape)."""
        return self.head(self.features(x, p))

    def feature_interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the features at p = ∞ on the box lower <= pixels <= upper."""
        return self.features.interval(lower, upper)

    def worst_case_margins(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """Upper bounds of logit_k − logit_y for features in the box, 0 at k = y.

        [Zhang2021, Eq. 21]. Shape (batch, num_classes); NaN where ``head_holds`` is false.
        """
        labels = integer_labels(labels, lower, "worst_case_margins")
        hidden = self.tanh.interval(*self.fc1.interval(lower, upper))
        margins = self.fc2.worst_case_margins(*hidden, labels)
        lost = ~self.head_holds(lower, upper).unsqueeze(1)
        return margins.masked_fill(lost, math.nan).scatter(1, labels.unsqueeze(1), 0.0)

    def head_holds(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Whether the head stays free of float32 overflow for features in the box; shape (batch,).

        tanh would hide an overflow: it maps an infinite input to ±1.
        """
        one = torch.ones_like(lower[:, :1])
        return sums_hold(lower, upper, self.fc1.weight, self.fc1.bias) & sums_hold(
            -one, one, self.fc2.weight, self.fc2.bias
        )

    def logits_and_ball_margins(
        self, features: Tensor, radius: float, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The logits of features, and ``worst_case_margins`` on the ball features ± radius.

        Training needs nothing else from the head. On a ball all half widths are equal, so |W| r is
        a row sum and the middle is ``features`` itself. This takes one product with the first
        layer's weight instead of three.
        """
        middle = self.fc1(features)
        spread = self.fc1.weight.abs().sum(1) * (radius * self.fc1.scale)
        lower, upper = self.tanh.interval(middle - spread, middle + spread)
        return self.fc2(self.tanh(middle)), self.fc2.worst_case_margins(lower, upper, labels)

    def worst_case_margins_on_box(self, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
        """Upper bounds of logit_k − logit_y at p = ∞ on a box of pixels, 0 at k = y."""
        return self.worst_case_margins(*self.feature_interval(lower, upper), labels)


def build_net(
    config: NetConfig,
    *,
    input_shape: tuple[int, int, int],
    num_classes: int,
    mean: Sequence[float],
    std: float,
) -> LinfDistNet | LinfDistNetMLP:
    """The network of ``config`` for images of ``input_shape`` (channels, height, width).

    Torch's global generator draws the weights: seed it first. Under ``torch.device("meta")`` the
    network takes no memory, whatever its width.

    Args:
        config: the architecture.
        input_shape: (channels, height, width) of an image.
        num_classes: number of logits.
        mean: one mean pixel per channel, for ``Normalize``.
        std: the standard deviation of all channels, for ``Normalize``.

    Raises:
        TypeError: an argument has the wrong type: input_shape is three numbers, mean one number
            per channel.
        ValueError: a number is out of its range, or mean has the wrong length.
    """
    num_classes = class_count(num_classes, "build_net")
    features = DistFeatures(config, input_shape=input_shape, mean=mean, std=std)
    kind = LinfDistNet if config.kind == "net" else LinfDistNetMLP
    return kind(config, features, num_classes)
