"""Adam with the paper's l_p weight decay."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from linfdist.nn import LpDist, LpDistConv2d
from linfdist.optim.adamw_step import adamw_step_

DECAYS = ("lp", "l2", "none")


class LpAdamW(Optimizer):
    """Adam with decoupled decay: w −= lr weight_decay Δ(w), then the Adam step.

    A group's ``decay`` says what Δ is: "lp", ``lp_decay_`` at the group's ``p``; "l2", the weight
    itself; "none", 0. Set p with ``set_p`` before each step. Defaults are the paper's
    [Zhang2021, Table 6]. One native kernel a parameter where there is one for its device, float32
    and float64, contiguous; a step never waits for a GPU.
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
        for group in self.param_groups:
            if group["decay"] not in DECAYS:
                raise ValueError(
                    f"LpAdamW: decay must be one of {', '.join(DECAYS)}; got {group['decay']!r}."
                )
            for name in ("lr", "eps", "weight_decay"):
                if not group[name] >= 0:
                    raise ValueError(f"LpAdamW: {name} must be at least 0; got {group[name]}.")
            if not all(0 <= beta < 1 for beta in group["betas"]):
                raise ValueError(f"LpAdamW: betas must be in [0, 1); got {group['betas']}.")
            _check_p(group["p"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
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
            state["step"] = torch.zeros((), device="cpu")  # where reading it waits for nothing
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What ``load_state_dict`` ends with; a checkpoint may bring ``step`` on a GPU."""
        super().__setstate__(state)
        for of_param in self.state.values():
            of_param["step"] = of_param["step"].cpu()
        for group in self.param_groups:
            group.pop("fused", None)  # of checkpoints from when Adam was torch's


def param_groups(net: nn.Module, decay: str = "lp") -> list[dict[str, Any]]:
    """Groups for ``LpAdamW``: the dist layers with ``decay``, all other parameters with "l2".

    Biases are in their layer's group: the last dist layer's is a row of one entry, the head's decay
    plainly, both as in the authors' code. ``decay="none"`` turns decay off for the head too.
    """
    dist = [
        param
        for module in net.modules()
        if isinstance(module, LpDist | LpDistConv2d)
        for param in module.parameters(recurse=False)
    ]
    known = set(dist)
    head = [param for param in net.parameters() if param not in known]
    groups = [{"params": dist, "decay": decay}]
    if head:
        groups.append({"params": head, "decay": "none" if decay == "none" else "l2"})
    return groups


def set_p(optimizer: LpAdamW, p: float) -> None:
    """Set the p of the l_p decay in every group."""
    _check_p(p)
    for group in optimizer.param_groups:
        group["p"] = p


def _check_p(p: float) -> None:
    if not p >= 1:
        raise ValueError(f"LpAdamW: p must be in [1, inf]; got {p}.")
