"""States of optimizers as files bring them: of the parameters that they are loaded for, or refused.

torch asks how many parameters a group has, and nothing of their order or of the moments' shapes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

ADAM = {"step", "exp_avg", "exp_avg_sq"}
MOMENTS = {torch.optim.Adam: ADAM, torch.optim.SGD: {"momentum_buffer"}}  # of one parameter


def load_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """``optimizer.load_state_dict(state)``, of LpAdamW or of one in ``MOMENTS``.

    Raises:
        TypeError, ValueError: the state is not of these parameters in this order.
    """
    check_order(state)
    optimizer.load_state_dict(state)
    for param, moments in optimizer.state.items():
        check_names(moments, MOMENTS.get(type(optimizer), ADAM))
        for name, value in moments.items():
            if isinstance(value, Tensor) and name != "step" and value.shape != param.shape:
                raise ValueError(
                    f"optimizer: {name} must have the shape of its parameter, "
                    f"{tuple(param.shape)}; got {tuple(value.shape)}. Load the state of an "
                    "optimizer of the same parameters in the same order."
                )
        if "step" in moments:
            check_step(moments["step"])


def check_order(state: dict[str, Any]) -> None:
    """Parameters are numbered through all groups, and no others have moments."""
    if not {"state", "param_groups"} <= state.keys():
        raise ValueError(
            "optimizer: a state must have state and param_groups; got "
            f"{', '.join(map(str, state))}. Load what state_dict gave."
        )
    order = [index for group in state["param_groups"] for index in group["params"]]
    if order != list(range(len(order))):
        raise ValueError(
            "optimizer: the parameters of a state must be numbered in order, 0, 1, 2, …; got "
            f"{order}. Load what state_dict gave."
        )
    unknown = set(state["state"]) - set(order)
    if unknown:
        raise ValueError(
            f"optimizer: a state must be of its {len(order)} parameters; it has moments for "
            f"{sorted(unknown, key=str)} too. Load what state_dict gave."
        )


def check_names(moments: dict[str, Any], wanted: set[str]) -> None:
    """What an optimizer keeps of one parameter, all of it and no more."""
    if moments.keys() != wanted:
        raise ValueError(
            f"optimizer: the state of a parameter must have {', '.join(sorted(wanted))}; got "
            f"{', '.join(sorted(map(str, moments)))}. Load the state of the same optimizer."
        )


def check_step(step: object) -> None:
    """A count of steps in a tensor."""
    whole = isinstance(step, Tensor) and step.numel() == 1 and float(step).is_integer()
    if not whole or step < 1:
        raise ValueError(
            f"optimizer: step must be a tensor with a number of steps, 1 or more; got {step!r}. "
            "Load what state_dict gave."
        )
