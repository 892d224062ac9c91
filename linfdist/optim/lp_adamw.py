"""Adam with the paper's l_p weight decay."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer

from linfdist.nn import LpDist, LpDistConv2d

DECAYS = ("lp", "l2", "none")
TINY = 1e-37  # above float32's smallest normal number, so that no logarithm is infinite
SMALLEST = -60.0  # e^-60 of the largest entry's decay is nothing, and times lr is still normal


def lp_decay_(weight: Tensor, p: float, rate: float) -> None:
    """weight −= rate (|w| / ‖w‖_p)^(p−2) w for each output row, in place  [Zhang2021, Eq. 6].

    A row is weight[j] flattened; a vector has rows of one entry, where this is plain decay. At
    p = ∞ the formula leaves the largest entry alone: w −= rate w there, the first one at a tie. A
    row of zeros stays as it is.
    """
    if weight.numel() == 0:
        return
    if weight.ndim < 2:
        weight.mul_(1 - rate)
        return
    rows = weight.flatten(1)  # a copy where the strides allow no view, as in channels_last
    _decay_rows_(rows, p, rate)
    if rows.data_ptr() != weight.data_ptr():
        weight.copy_(rows.view_as(weight))


def _decay_rows_(rows: Tensor, p: float, rate: float) -> None:
    magnitude = rows.abs()
    if math.isinf(p):
        largest = magnitude.argmax(1, keepdim=True)
        rows.scatter_add_(1, largest, rows.gather(1, largest) * -rate)
        return
    # With m = max|w|, t = (|w| / m)^(p−1) and s = Σ t |w| / m = (‖w‖_p / m)^p the decay is
    # sign(w) m t s^((2−p)/p): one power an entry, none above 1, and no 0 to a negative power.
    # exp and log are several times faster than pow, and nothing below e^SMALLEST is a denormal.
    largest = magnitude.amax(1, keepdim=True)
    ratio = magnitude.div_(largest.clamp_min(TINY)).clamp_min_(TINY)
    power = ratio.log().mul_(p - 1).clamp_min_(SMALLEST).exp_()
    total = ratio.mul_(power).sum(1, keepdim=True).clamp_min_(1)  # 1 is the largest entry's term
    rows.addcmul_(rows.sign().mul_(power), total.pow_((2 - p) / p).mul_(largest), value=-rate)


class LpAdamW(Optimizer):
    """Adam with decoupled decay: w −= lr weight_decay Δ(w), then the Adam step.

    A group's ``decay`` says what Δ is: "lp", ``lp_decay_`` at the group's ``p``; "l2", the weight
    itself; "none", 0. Set p with ``set_p`` before each step. Defaults are the paper's
    [Zhang2021, Table 6]. Adam itself is torch's fused one, on CPU and CUDA.
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
            "fused": True,  # makes Optimizer.load_state_dict keep `step` beside its parameter
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
            parameters = [param for param in group["params"] if param.grad is not None]
            rate = group["lr"] * group["weight_decay"]
            for param in parameters:
                if group["decay"] == "lp" and rate:
                    lp_decay_(param, group["p"], rate)
                elif group["decay"] == "l2" and rate:
                    param.mul_(1 - rate)
            states = [self._state(param) for param in parameters]
            adam(
                parameters,
                [param.grad for param in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=0.0,
                eps=group["eps"],
                maximize=False,
            )
        return loss

    def _state(self, param: Tensor) -> dict[str, Tensor]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        return state


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
