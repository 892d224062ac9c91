"""Checks of a checkpoint's content, made before a run takes over any of it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from linfdist.nn import Normalize, mean_distances
from linfdist.nn.state import check_state_dict

if TYPE_CHECKING:
    from linfdist.training.state import TrainingState

STATE_KEYS = (
    *("step", "net", "objective", "mean_distances", "optimizer", "rows", "loss_sum", "correct"),
    *("seconds", "environments"),
)
ROW = ("epoch", "p", "lr", "eps_train", "train_loss", "train_accuracy", "seconds")


def check_state(state: Mapping[str, Any], run: "TrainingState") -> None:
    """Refuse a state that does not belong to ``run``. ``run`` itself is at step 0.

    Raises:
        ValueError or TypeError: the state does not fit; the message names the wrong entry.
    """
    _check_keys(state, STATE_KEYS, "its state")
    _check_step(state["step"], run)
    _check_rows(state, run)
    check_state_dict(run.net, state["net"], "its network")
    _check_constants(state["net"], run)
    if not isinstance(state["objective"], dict):
        raise ValueError(f"its objective must be a state dict; it is {state['objective']!r}")
    check_state_dict(run.recipe.objective, objective_state(state), "its objective")
    _check_mean_distances(state["mean_distances"], run)
    _check_optimizer(state, run)
    _check_sums(state, run)
    _check_number(state["seconds"], "its seconds", least=0.0)


def _check_constants(recorded: Mapping[str, Tensor], run: "TrainingState") -> None:
    """Refuse a state dict whose mean or std differs from that of the run's network."""
    own = run.net.state_dict()
    for name, module in run.net.named_modules():
        for constant in ("mean", "divisor") if isinstance(module, Normalize) else ():
            key = f"{name}.{constant}"
            if not torch.equal(recorded[key], own[key]):
                raise ValueError(f"its network's {key} must be the run's, {own[key].tolist()}")


def objective_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The objective's state dict: the network's entries and the loss's own parameters."""
    return {f"net.{name}": value for name, value in state["net"].items()} | state["objective"]


def _check_keys(value: Any, keys: tuple[str, ...], what: str) -> None:
    if not isinstance(value, dict) or value.keys() != set(keys):
        raise ValueError(f"{what} must hold {', '.join(keys)}; it holds {_listed(value)}")


def _check_step(step: Any, run: "TrainingState") -> None:
    if type(step) is not int or not 0 <= step <= run.num_steps:
        raise ValueError(f"its step must be in 0..{run.num_steps}, the run's steps; it is {step!r}")


def _check_rows(state: Mapping[str, Any], run: "TrainingState") -> None:
    rows, ended = state["rows"], state["step"] // run.steps_per_epoch
    if not isinstance(rows, list) or len(rows) != ended:
        raise ValueError(
            f"its rows must number {ended}, one for each epoch that ended by step {state['step']}; "
            f"it has {len(rows) if isinstance(rows, list) else repr(rows)}"
        )
    watched = f"{run.watched}_accuracy", f"{run.watched}_certified"
    for number, row in enumerate(rows, 1):
        what = f"its row of epoch {number}"
        _check_keys(row, (*ROW, *watched), what)
        if type(row["epoch"]) is not int or row["epoch"] != number:
            raise ValueError(f"{what} must have that number; it has {row['epoch']!r}")
        # The schedule's values at the epoch's last step, up to another machine's rounding.
        run.recipe.set_progress((number * run.steps_per_epoch - 1) / run.steps_per_epoch)
        for name in ("p", "lr", "eps_train"):
            _check_same(row[name], getattr(run.recipe, name), f"{what}: {name}")
        _check_number(row["train_loss"], f"{what}: train_loss", least=0.0)
        _check_number(row["train_accuracy"], f"{what}: train_accuracy", least=0.0, most=1.0)
        for name in watched:
            if row[name] is not None:
                _check_number(row[name], f"{what}: {name}", least=0.0, most=1.0)
        _check_number(row["seconds"], f"{what}: seconds", least=0.0)


def _check_number(value: Any, what: str, least: float, most: float = math.inf) -> None:
    number = type(value) in (int, float) and math.isfinite(value)
    if not (number and least <= value <= most):
        raise ValueError(f"{what} must be a number from {least:g} to {most:g}; it is {value!r}")


def _check_same(recorded: Any, wanted: float | None, what: str) -> None:
    if recorded is None or wanted is None:
        same = recorded is wanted
    else:
        same = type(recorded) in (int, float) and math.isclose(
            recorded, wanted, rel_tol=1e-9, abs_tol=1e-15
        )
    if not same:
        raise ValueError(f"{what} must be {wanted}; it is {recorded!r}")


def _check_mean_distances(recorded: Any, run: "TrainingState") -> None:
    layers = len(mean_distances(run.net))
    if not isinstance(recorded, list) or len(recorded) != layers:
        raise ValueError(
            f"its mean distances must be {layers}, one per layer; they are {recorded!r}"
        )
    dtype = next(run.net.parameters()).dtype
    for mean in recorded:
        if mean is not None and not (_is_scalar(mean, dtype) and 0 < mean.item() < math.inf):
            raise ValueError(
                f"its mean distances must be finite {dtype} scalars above 0; one is {mean!r}"
            )


def _check_optimizer(state: Mapping[str, Any], run: "TrainingState") -> None:
    """Each parameter has made all steps, and its moments have its shape and dtype."""
    recorded, own = state["optimizer"], run.optimizer.state_dict()
    _check_keys(recorded, ("state", "param_groups"), "its optimizer")
    parameters = [parameter for g in run.optimizer.param_groups for parameter in g["params"]]
    order = [group["params"] for group in own["param_groups"]]
    groups = recorded["param_groups"]
    given = [_get(group, "params") for group in groups] if isinstance(groups, list) else groups
    if repr(given) != repr(order):  # repr, because True == 1 but True is no index
        raise ValueError("its optimizer must have this run's groups of parameters, in their order")
    moments = recorded["state"]
    names = run.recipe.state if state["step"] else ()
    if not isinstance(moments, dict) or not moments.keys() <= set(range(len(parameters))):
        raise ValueError(
            f"its optimizer's state must belong to parameters 0..{len(parameters) - 1}"
        )
    for index, parameter in enumerate(parameters):
        what = f"its optimizer's state of parameter {index}"
        entry = moments.get(index, {})
        _check_keys(entry, names, what)
        for name, value in entry.items():
            if name == "step":
                good = _is_scalar(value) and value.is_floating_point()
                good = good and value.item() == state["step"]
                wanted = f"{state['step']}, the number of steps done"
            else:
                good = _is_like(value, parameter) and bool(value.isfinite().all())
                good = good and (name != "exp_avg_sq" or bool((value >= 0).all()))
                wanted = f"finite, {parameter.dtype} and of shape {tuple(parameter.shape)}"
            if not good:
                raise ValueError(f"{what}: {name} must be {wanted}; it is {_described(value)}")


def _check_sums(state: Mapping[str, Any], run: "TrainingState") -> None:
    """Check the sums over the finished batches of the current epoch."""
    loss, correct = state["loss_sum"], state["correct"]
    batches = state["step"] % run.steps_per_epoch
    images = batches * run.config.batch_size
    if not _is_scalar(loss, torch.float64) or not 0 <= loss.item() < math.inf:
        raise ValueError(
            f"its loss_sum must be a finite float64 scalar of at least 0; it is {_described(loss)}"
        )
    if not _is_scalar(correct, torch.int64) or not 0 <= correct.item() <= images:
        raise ValueError(
            f"its correct must be an int64 scalar in 0..{images}, the images of the epoch's "
            f"{batches} batches; it is {_described(correct)}"
        )
    if batches == 0 and loss.item() != 0:
        raise ValueError(f"its loss_sum must be 0 between two epochs; it is {loss.item()}")


def _is_scalar(value: Any, dtype: torch.dtype | None = None) -> bool:
    return isinstance(value, Tensor) and value.shape == () and dtype in (None, value.dtype)


def _is_like(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and (value.shape, value.dtype, value.layout) == (
        other.shape,
        other.dtype,
        other.layout,
    )


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, dict) else repr(value)


def _described(value: Any) -> str:
    if isinstance(value, Tensor) and value.numel() != 1:
        return f"{value.dtype} of shape {tuple(value.shape)}, or not finite"
    return repr(value)
