"""Check that a state dict fits a network."""

from typing import Any

from torch import Tensor, nn


def check_state_dict(net: nn.Module, state: Any, what: str, *, older: bool = False) -> None:
    """Refuse tensors that ``load_state_dict`` would round, truncate or load only in part.

    Args:
        net: the network.
        state: the state dict to check.
        what: the name of the state in errors.
        older: entries may be missing; ``load_state_dict`` must then know how to fill them.

    Raises:
        ValueError: the entries differ from the network's, an entry has another shape or dtype (such
            as float64, which would be rounded, or complex64), or an entry is not finite.
    """
    if not isinstance(state, dict):
        raise ValueError(f"{what} must be a state dict; it is a {type(state).__name__}")
    own = net.state_dict()
    unknown = sorted(map(str, state.keys() - own.keys()))
    missing = sorted(own.keys() - state.keys())
    if unknown or (missing and not older):
        raise ValueError(
            f"{what} must hold exactly the network's entries; it lacks {missing} and adds {unknown}"
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{what}: {name} must be a tensor; it is a {type(value).__name__}")
        wanted = (own[name].dtype, tuple(own[name].shape), own[name].layout)
        given = (value.dtype, tuple(value.shape), value.layout)
        if given != wanted:
            raise ValueError(
                f"{what}: {name} must be {wanted[0]} of shape {wanted[1]}; it is {given[0]} of "
                f"shape {given[1]}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{what}: {name} holds NaN or infinity")
