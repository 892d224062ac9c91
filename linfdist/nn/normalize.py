"""The input normalisation, as the network's first layer."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x − mean[c]) / divisor: converts pixels in [0, 1] to the network's units.

    x has shape (batch, channels, height, width). ``mean`` has one value per channel. ``divisor``,
    the std, is one scalar, so that an l_inf ball stays an l_inf ball. Both are buffers of torch's
    default dtype and belong to the state dict: weights are valid only with the constants of their
    training. ``lipschitz`` = 1 / divisor uses exactly the number that ``forward`` divides by.
    Dividing a certificate in the network's units by ``lipschitz`` gives a certificate in pixels.

    A state dict must hold the layer's current constants or those that it was built with. A state
    dict recorded before the constants belonged to it sets those that the layer was built with.
    ``net.to_empty`` leaves memory without values; the layer then refuses to run until a state dict
    is loaded or ``reset_parameters`` is called.
    """

    mean: Tensor
    divisor: Tensor

    def __init__(self, mean: Sequence[float], std: float) -> None:
        super().__init__()
        self._std = _number("std", std)
        channels = [_number("mean", value) for value in mean]
        dtype = torch.get_default_dtype()
        # The rounded constants, on the CPU because the buffers may be on the device meta.
        self._built = {
            "mean": torch.tensor(channels, dtype=dtype, device="cpu").view(-1, 1, 1),
            "divisor": torch.tensor(self._std, dtype=dtype, device="cpu"),
        }
        if not 0 < float(self._built["divisor"]) < math.inf:
            raise ValueError(f"Normalize: std must be positive; got {std}. It divides the pixels.")
        if not self._built["mean"].isfinite().all():
            raise ValueError(f"Normalize: mean must be finite; got {channels}.")
        # A tensor, because CUDA would divide by a number by multiplying with its rounded inverse.
        self.register_buffer("mean", torch.empty(len(channels), 1, 1, dtype=dtype))
        self.register_buffer("divisor", torch.empty((), dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Write the constants that the layer was built with."""
        with torch.no_grad():
            self.mean.copy_(self._built["mean"])
            self.divisor.copy_(self._built["divisor"])
        self._empty = False

    @property
    def std(self) -> float:
        """The std that the layer was built with if it rounds to the divisor, else the divisor."""
        rounded = torch.tensor(self._std, dtype=self.divisor.dtype, device="cpu")
        if self.divisor.is_meta or float(self.divisor) == float(rounded):
            return self._std
        return float(self.divisor)

    @property
    def lipschitz(self) -> float:
        """1 / divisor. On a GPU, reading it waits for all queued work."""
        self.check("Normalize")
        divisor = self._built["divisor"] if self.divisor.is_meta else self.divisor
        return 1 / float(divisor)

    def forward(self, x: Tensor) -> Tensor:
        self._check_filled("Normalize")
        return (x - self.mean) / self.divisor

    def interval(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The range on a box; the layer is increasing, so it maps bounds to bounds."""
        return self(lower), self(upper)

    def check(self, caller: str) -> None:
        """Refuse constants that permit no certificate: without values, or no positive divisor."""
        self._check_filled(caller)
        if self.divisor.is_meta:
            return
        if self.divisor.numel() != 1 or not float(self.divisor) > 0:
            raise ValueError(
                f"{caller}: the normalisation must divide by one positive number; got "
                f"{self.divisor.tolist()}. Call reset_parameters of the Normalize layer."
            )

    def _check_filled(self, caller: str) -> None:
        if self._empty:
            raise RuntimeError(
                f"{caller}: the network must hold values; net.to_empty left its memory "
                "uninitialised. Call net.load_state_dict."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Normalize":
        before = {name: getattr(self, name) for name in self._built}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = getattr(self, name)
            # A cast or a move equals the old buffer after ``to``; anything else has no values.
            if not new.is_meta and (old.is_meta or not torch.equal(old.to(new), new)):
                self._empty = True
        return self

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        recorded = {name: state_dict.get(prefix + name) for name in self._built}
        if all(value is None for value in recorded.values()):  # recorded before it held constants
            state_dict = dict(state_dict)
            for name, value in self._built.items():
                own = getattr(self, name)
                device = "cpu" if own.is_meta else own.device  # the weights' is unknown
                state_dict[prefix + name] = value.to(device, own.dtype, copy=True)
        wrong = [
            f"{prefix}{name} must be {_text(self._built[name])}, the value that the network was "
            f"built with; the state dict holds {_text(value)}. Build the network with the mean and "
            "the std that the weights were trained with."
            for name, value in recorded.items()
            if value is not None and not self._may_hold(name, value)
        ]
        error_msgs += wrong
        if not wrong:
            super()._load_from_state_dict(
                state_dict,
                prefix,
                local_metadata,
                strict,
                missing_keys,
                unexpected_keys,
                error_msgs,
            )
            self._empty = False

    def _may_hold(self, name: str, value: Tensor) -> bool:
        """Whether ``value`` equals the built or the current constant, up to a cast of either.

        True for a tensor without values or of another shape: torch itself checks those.
        """
        own = [self._built[name]]
        if not self._empty and not getattr(self, name).is_meta:
            own.append(getattr(self, name))
        if value.is_meta or value.numel() != own[0].numel():
            return True
        return any(_same(value.detach().reshape(one.shape), one) for one in own)

    def extra_repr(self) -> str:
        return f"channels={len(self.mean)}, std={self.std}"


def _number(name: str, value: Any) -> float:
    """``value`` as a float: a Python or numpy number, or a tensor that holds one number."""
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(
        f"Normalize: {name} must be a number{' per channel' * (name == 'mean')}; got {value!r}. "
        "One std for all channels keeps an l_inf ball an l_inf ball."
    )


def _same(first: Tensor, second: Tensor) -> bool:
    """Whether the tensors are equal in the coarser of their two dtypes."""
    if not first.is_floating_point():
        return False
    coarse = max(first.dtype, second.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    return torch.equal(first.cpu().to(coarse), second.cpu().to(coarse))


def _text(value: Tensor) -> str:
    return ", ".join(f"{number:.9g}" for number in value.flatten().tolist())
