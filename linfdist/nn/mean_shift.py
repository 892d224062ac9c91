"""Mean-shift normalisation: batch normalisation without the scaling that would break Lipschitz."""

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

    x has shape (batch, features), or (batch, features, height, width) and then one mean a channel.
    In training mode the batch mean is subtracted, the gradient flows through it, and the running
    mean (from 0) moves to it by ``momentum``; in evaluation mode the running mean is subtracted: a
    constant, so the layer is 1-Lipschitz. An empty batch leaves everything as it is. Training mode
    refuses a batch of one value a feature, as batch normalisation does: nothing would be left of
    it. ``by_running_means`` trains on such a batch.

    ``sync``: in training mode the mean is that of the batches of all processes together, at the
    cost of one sum over them in either pass; without it each process shifts by its own mean. For a
    single process it changes nothing.
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
                f"{tuple(x.shape)}, of which the mean leaves 0. Give it more images, or call "
                "eval()."
            )
        else:
            mean = x.mean(dim=axes)
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        return x - self._shaped(mean, x)

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The range on a box, with the running mean in either mode."""
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
    """Within it, every mean shift of ``net`` has this ``sync``; restored on leaving."""
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
    """Within it, every mean shift of ``net`` subtracts its running mean; restored on leaving.

    For a batch of a single image in training: its own mean would leave 0.
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

    The running means belong to the p that the net was last trained at; a net that was trained at a
    small p needs those of p = ∞ before it is evaluated there. One forward pass a batch, in
    training mode as in training: each layer sees inputs shifted by their own batch means. The
    batches are weighted by their sizes. A replica sees them; ``net`` gets its buffers at the end,
    all or, after an error, none.

    Raises:
        TypeError: a batch is not a tensor of pixels.
        ValueError: there is no image, or a batch of a single one, whose mean leaves nothing of it.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"reestimate_mean_shift: net must be a network; got {shown(net)}.")
    refuse_inference_tensors(net, "reestimate_mean_shift")
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise TypeError(
            "reestimate_mean_shift: batches must be several tensors of pixels; got "
            f"{shown(batches)}. A single batch is [x]."
        )
    learner = replica(net, training=True)
    shifts = [module for module in learner.modules() if isinstance(module, MeanShift)]
    seen = 0
    with ieee_float32(), torch.no_grad():
        for batch in batches:
            if not isinstance(batch, Tensor):
                raise TypeError(
                    "reestimate_mean_shift: batches must be tensors of pixels; got a "
                    f"{type(batch).__name__}. Pass the images of each batch alone."
                )
            seen += len(batch)
            for shift in shifts:
                # 1 at the first batch, which forgets the old running mean.
                shift.momentum = len(batch) / max(seen, 1)
            learner(batch, p)
    if seen == 0:
        raise ValueError(
            "reestimate_mean_shift: batches must hold at least one image; got none. An iterator "
            "that was used before is empty: pass a list or a new iterator."
        )
    _take_buffers(net, learner)


def _take_buffers(net: nn.Module, learner: nn.Module) -> None:
    """Give ``net`` the values of the buffers of a replica that was in training mode."""
    learnt = dict(learner.named_modules())
    for name, module in net.named_modules():
        for key, value in learnt[name]._buffers.items() if name in learnt else ():
            if module._buffers[key] is None or value is None:
                module._buffers[key] = value  # a running mean that starts, such as Distance's
            else:
                module._buffers[key].copy_(value)
