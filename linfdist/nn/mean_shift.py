"""Mean-shift normalisation: batch normalisation without scaling, which keeps layers 1-Lipschitz."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from linfdist.nn.frozen import replica
from linfdist.nn.logsumexp import LogSumExp
from linfdist.ops.precision import ieee_float32
from linfdist.system import distributed
from linfdist.system.inputs import real, refuse_inference_tensors
from linfdist.system.values import shown, whole


class MeanShift(nn.Module):
    """x − mean(x) over the batch, feature by feature  [Zhang2021, Sec. 5.1].

    x has shape (batch, features), or (batch, features, height, width) with one mean per channel.

    - In training mode the layer subtracts the batch mean, and the gradient flows through that mean.
      The running mean starts at 0 and moves towards the batch mean by ``momentum``.
    - In evaluation mode the layer subtracts the running mean, a constant, so it is 1-Lipschitz.
    - An empty batch leaves the running mean unchanged.
    - Training mode refuses a batch with one value per feature, as batch normalisation does: the
      output would be 0. ``by_running_means`` trains on such a batch.

    Args:
        num_features: features, or channels, of x.
        momentum: the share of the batch mean in the new running mean, in [0, 1].
        sync: in training mode take the mean over the batches of all processes. This costs one sum
            over the processes in each of the forward and backward passes. Without it each process
            subtracts its own mean. For a single process ``sync`` changes nothing.
        device: device of the running mean.
        dtype: precision of the running mean.
    """

    running_mean: Tensor

    def __init__(
        self,
        num_features: int,
        momentum: float = 0.1,
        *,
        sync: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        num_features = whole(num_features, "MeanShift: num_features", least=1)
        momentum = real(momentum, "MeanShift", "momentum")
        if not 0 <= momentum <= 1:
            raise ValueError(f"MeanShift: momentum must be in [0, 1]; got {momentum}.")
        self.num_features = num_features
        self.momentum = momentum
        self.sync = sync
        mean = torch.zeros(self.num_features, device=device, dtype=dtype)
        self.register_buffer("running_mean", mean)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        together = self.sync and distributed.size() > 1
        if not self.training or (x.shape[0] == 0 and not together):
            return x - self._shaped(self.running_mean, x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        if together:
            count = x.new_full((1,), x.numel() // self.num_features)
            sums = distributed.total(torch.cat([x.sum(dim=axes), count]))
            mean = sums[:-1] / sums[-1]
        elif x.numel() == self.num_features:
            raise ValueError(
                "MeanShift: in training mode x must hold more than one value for each feature; got "
                f"{tuple(x.shape)}. A single value minus its mean is 0. Pass more images, or call "
                "eval()."
            )
        else:
            mean = x.mean(dim=axes)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return x - self._shaped(mean, x)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The range on a box; the running mean is subtracted in both modes."""
        self._check(lower)
        mean = self._shaped(self.running_mean, lower)
        return lower - mean, upper - mean

    @staticmethod
    def _shaped(mean: Tensor, x: Tensor) -> Tensor:
        return mean.view(-1, *[1] * (x.ndim - 2))

    def _check(self, x: Tensor) -> None:
        if x.ndim not in (2, 4) or x.shape[1] != self.num_features:
            raise ValueError(
                f"MeanShift: x must be (batch, {self.num_features}) or (batch, "
                f"{self.num_features}, height, width); got {tuple(x.shape)}."
            )

    def extra_repr(self) -> str:
        return f"{self.num_features}, momentum={self.momentum}"


@contextmanager
def synchronized(net: nn.Module, sync: bool = True) -> Iterator[None]:
    """Set ``sync`` of every mean shift of ``net`` inside the context, and restore it on leaving."""
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    before = [shift.sync for shift in shifts]
    for shift in shifts:
        shift.sync = sync
    try:
        yield
    finally:
        for shift, value in zip(shifts, before, strict=True):
            shift.sync = value


@contextmanager
def by_running_means(net: nn.Module) -> Iterator[None]:
    """Let every mean shift of ``net`` subtract its running mean inside the context.

    The former modes are restored on leaving. Use it to train on a batch of a single image, whose
    own mean would leave 0.
    """
    shifts = [module for module in net.modules() if isinstance(module, MeanShift)]
    before = [shift.training for shift in shifts]
    for shift in shifts:
        shift.training = False
    try:
        yield
    finally:
        for shift, mode in zip(shifts, before, strict=True):
            shift.training = mode


def reestimate_mean_shift(
    net: nn.Module, batches: Iterable[Tensor], p: float | LogSumExp = math.inf
) -> None:
    """Replace every running mean of ``net`` by the mean over ``batches`` at this p, in place.

    The running means belong to the p of the last training step. A net that was trained at a small p
    needs the means of p = ∞ before it is evaluated at p = ∞.

    A replica of ``net`` makes one forward pass per batch in training mode, so each layer sees
    inputs shifted by their own batch means. Batches are weighted by their sizes. At the end ``net``
    takes over all buffers of the replica; after an error it takes over none.

    Raises:
        TypeError: a batch is not a tensor of pixels.
        ValueError: there is no image, or a batch holds a single image, of which its mean leaves 0.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"reestimate_mean_shift: net must be a network; got {shown(net)}.")
    refuse_inference_tensors(net, "reestimate_mean_shift")
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise TypeError(
            "reestimate_mean_shift: batches must be an iterable of tensors of pixels; got "
            f"{shown(batches)}. Pass a single batch as [x]."
        )
    learner = replica(net, training=True)
    shifts = [module for module in learner.modules() if isinstance(module, MeanShift)]
    seen = 0
    with ieee_float32(), torch.no_grad():
        for batch in batches:
            if not isinstance(batch, Tensor):
                raise TypeError(
                    "reestimate_mean_shift: batches must be tensors of pixels; got a "
                    f"{type(batch).__name__}. Pass only the images of each batch."
                )
            seen += len(batch)
            for shift in shifts:
                # The first batch has momentum 1, which discards the old running mean.
                shift.momentum = len(batch) / max(seen, 1)
            learner(batch, p)
    if seen == 0:
        raise ValueError(
            "reestimate_mean_shift: batches must hold at least one image; got none. An iterator "
            "that was used before is empty: pass a list or a new iterator."
        )
    _take_buffers(net, learner)


def _take_buffers(net: nn.Module, learner: nn.Module) -> None:
    """Copy the buffers of a replica that was in training mode to ``net``."""
    learnt = dict(learner.named_modules())
    for name, module in net.named_modules():
        for key, value in learnt[name]._buffers.items() if name in learnt else ():
            if module._buffers[key] is None or value is None:
                module._buffers[key] = value  # a running mean that is new, such as Distance's
            else:
                module._buffers[key].copy_(value)
