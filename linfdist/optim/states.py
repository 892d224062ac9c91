"""Check that an optimizer state from a file belongs to the parameters of the optimizer.

Torch checks the number of parameters in a group, but neither their order nor the moments' shapes.
"""

from typing import Any

from torch import Tensor

ADAM = {"step", "exp_avg", "exp_avg_sq"}


def check_order(state: dict[str, Any]) -> None:
    """Check that numbers run through the parameters of all groups, and no others have moments."""
    if not {"state", "param_groups"} <= state.keys():
        raise ValueError(
            "optimizer: a state must have state and param_groups; got "
            f"{', '.join(map(str, state))}. Load the result of state_dict."
        )
    order = [index for group in state["param_groups"] for index in group["params"]]
    if order != list(range(len(order))):
        raise ValueError(
            "optimizer: the parameters of a state must be numbered in order, 0, 1, 2, …; got "
            f"{order}. Load the result of state_dict."
        )
    unknown = set(state["state"]) - set(order)
    if unknown:
        raise ValueError(
            f"optimizer: a state must have moments for its {len(order)} parameters only; it also "
            f"has some for {sorted(unknown, key=str)}. Load the result of state_dict."
        )


def check_names(moments: dict[str, Any], wanted: set[str]) -> None:
    """Check that the state of one parameter has exactly the ``wanted`` entries."""
    if moments.keys() != wanted:
        raise ValueError(
            f"optimizer: the state of a parameter must have {', '.join(sorted(wanted))}; got "
            f"{', '.join(sorted(map(str, moments)))}. Load the state of the same optimizer."
        )


def check_step(step: Any) -> None:
    """Check that ``step`` is a tensor that holds a number of steps."""
    counts = isinstance(step, Tensor) and step.numel() == 1
    if not (counts and float(step).is_integer() and float(step) >= 1):
        raise ValueError(
            "optimizer: step must be a tensor with a step count of at least 1; got "
            f"{step!r}. Load the result of state_dict."
        )
