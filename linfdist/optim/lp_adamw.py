"""Adam with the paper's l_p weight decay."""

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from linfdist.nn import LpDist, LpDistConv2d
from linfdist.optim.adamw_step import adamw_step_, check_like
from linfdist.optim.states import ADAM, check_names, check_order, check_step

DECAYS = ("lp", "l2", "none")
SETTINGS = ("lr", "betas", "eps", "weight_decay", "decay", "p")  # settings of a group


class LpAdamW(Optimizer):
    """Adam with decoupled decay: w −= lr weight_decay Δ(w), then the Adam step.

    Defaults are the paper's [Zhang2021, Table 6]. Set p with ``set_p`` before each step. A
    contiguous float32 or float64 parameter takes one native kernel per step if its device has one.
    A step never waits for a GPU.

    Args:
        params: parameters or groups, as of ``param_groups``.
        lr: learning rate.
        betas: decay rates of Adam's two moments.
        eps: added to the root of the second moment.
        weight_decay: strength of the decay.
        decay: Δ of a group: "lp" is ``lp_decay_`` at the group's ``p``, "l2" the weight itself,
            "none" 0.
        p: p of the l_p decay.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-10,
        weight_decay: float = 0.005,
        decay: str = "lp",
        p: float = math.inf,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decay": decay,
            "p": p,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as the constructor does for each of its groups.

        Raises:
            TypeError: a setting is not a number.
            ValueError: a setting is out of range.
        """
        if isinstance(param_group, dict):  # torch raises the error for other types
            _check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            _check_group(group)  # a scheduler or a user may have set anything
            lp = group["decay"] == "lp"
            rate = 0.0 if group["decay"] == "none" else group["lr"] * group["weight_decay"]
            for param in group["params"]:
                if param.grad is None:
                    continue
                state = self._state(param)
                state["step"] += 1
                adamw_step_(
                    param,
                    param.grad,
                    state["exp_avg"],
                    state["exp_avg_sq"],
                    p=group["p"] if lp else 2.0,
                    rate=rate,
                    lr=group["lr"],
                    betas=group["betas"],
                    eps=group["eps"],
                    steps=int(state["step"]),
                )
        return loss

    def _state(self, param: Tensor) -> dict[str, Tensor]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), device="cpu")  # reading it there needs no wait
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the ``state_dict`` of an optimizer that has the same parameters in the same order.

        After an error the optimizer is unchanged.

        Raises:
            TypeError: a setting is not a number.
            ValueError: parameters, moments or settings are not those of such an optimizer.
        """
        check_order(state_dict)
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The last part of ``load_state_dict``; a checkpoint may hold ``step`` on a GPU."""
        for group in state["param_groups"]:
            _check_group(group)
            group.pop("fused", None)  # in older checkpoints, which used torch's Adam
        for param, of_param in state["state"].items():
            if of_param:
                _check_moments(param, of_param)
                of_param["step"] = of_param["step"].cpu()
        super().__setstate__(state)


def param_groups(net: nn.Module, decay: str = "lp") -> list[dict[str, Any]]:
    """Groups for ``LpAdamW``: the dist layers with ``decay``, all other parameters with "l2".

    Biases are in their layer's group, as in the authors' code: the last dist layer's bias decays as
    rows of one entry, and the head's biases have plain decay. ``decay="none"`` turns decay off for
    the head too.

    Raises:
        ValueError: a dist layer's weight is computed from other parameters, as ``weight_norm``
            does. The l_p decay must act on the weight itself.
    """
    dist: list[nn.Parameter] = []
    for name, module in net.named_modules():
        if isinstance(module, LpDist | LpDistConv2d):
            _check_plain(name or "net", module)
            dist += module.parameters(recurse=False)
    known = set(dist)
    head = [param for param in net.parameters() if param not in known]
    groups = [{"params": dist, "decay": decay}]
    if head:
        groups.append({"params": head, "decay": "none" if decay == "none" else "l2"})
    return groups


def _check_plain(name: str, layer: LpDist | LpDistConv2d) -> None:
    for part in ("weight", "bias"):
        if getattr(layer, part, None) is not None and part not in layer._parameters:
            raise ValueError(
                f"param_groups: {part} of {name} must be a parameter of its own; a "
                "parametrization, weight_norm or pruning computes it from other parameters, which "
                "the l_p decay would then shrink. Remove that first, or make the groups by hand."
            )


def set_p(optimizer: LpAdamW, p: float) -> None:
    """Set the p of the l_p decay in every group."""
    _check_p(p)
    for group in optimizer.param_groups:
        group["p"] = p


def _check_group(group: dict[str, Any]) -> None:
    """Check the settings of one group, whatever their source."""
    missing = [name for name in SETTINGS if name not in group]
    if missing:
        raise ValueError(
            f"LpAdamW: a group must have {', '.join(SETTINGS)}; got one without "
            f"{', '.join(missing)}. Load the state of an LpAdamW."
        )
    if group["decay"] not in DECAYS:
        raise ValueError(
            f"LpAdamW: decay must be one of {', '.join(DECAYS)}; got {group['decay']!r}."
        )
    for name in ("lr", "eps", "weight_decay"):
        _check_number(name, group[name])
        if not group[name] >= 0:
            raise ValueError(f"LpAdamW: {name} must be at least 0; got {group[name]}.")
        if math.isinf(group[name]):
            raise ValueError(f"LpAdamW: {name} must be finite; got {group[name]}.")
    betas = group["betas"]
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise TypeError(f"LpAdamW: betas must be two numbers; got {betas!r}.")
    for beta in betas:
        _check_number("each of betas", beta)
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"LpAdamW: betas must be in [0, 1); got {betas}.")
    _check_p(group["p"])


def _check_moments(param: Tensor, state: dict[str, Any]) -> None:
    """Check that the state of one parameter is one that a step leaves."""
    check_names(state, ADAM)
    check_step(state["step"])
    check_like(param, exp_avg=state["exp_avg"], exp_avg_sq=state["exp_avg_sq"])


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, numbers.Real):
        raise TypeError(
            f"LpAdamW: {name} must be a number; got {type(value).__name__}. Pass a float."
        )


def _check_p(p: float) -> None:
    _check_number("p", p)
    if not p >= 1:
        raise ValueError(f"LpAdamW: p must be in [1, inf]; got {p}.")
