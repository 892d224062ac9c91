"""Epochs of Table 4's methods, timed as training steps in the middle of each phase.

A step is the trainer's own: an augmented batch, the recipe's loss, its gradients and its optimizer.
The cost of forward and backward grows with the batch; the cost of the optimizer grows with the
weights. The two are timed separately. The time of an epoch of the recipe's batches then follows
from smaller batches, if memory or time does not allow the whole batch.

Pixels, labels and weights are random; the cost does not depend on their values. On a CPU the
seconds are processor time, summed over all threads, so they exclude other programs.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch

from linfdist import data
from linfdist.bench.iterations import STILL_LR
from linfdist.bench.timing import Row, best_seconds
from linfdist.data.batches import Batches
from linfdist.experiments.base import Experiment, Setting
from linfdist.experiments.runner import build
from linfdist.nn import flop_count
from linfdist.ops.precision import matmul_precision
from linfdist.training.recipe import recipe_of

PHASES = ("warm-up", "ramp", "end")  # they last e1, e2 and e3 epochs
STEP_PARTS = ("forward_backward_seconds", "optimizer_seconds")


def moments(epochs: tuple[int, int, int]) -> Mapping[str, float]:
    """The number of epochs done in the middle of each phase; phases of length 0 are left out."""
    e1, e2, e3 = epochs
    middles = (e1 / 2, e1 + e2 / 2, e1 + e2 + e3 / 2)
    phases = zip(PHASES, middles, epochs, strict=True)
    return MappingProxyType({phase: middle for phase, middle, length in phases if length})


def measure(
    experiment: Experiment, scale: str, *, batch: int | None, device: torch.device
) -> list[Row]:
    """Time one round: one row per phase of a method, with the seconds of a step's two parts.

    ``batch`` is the number of images in a step, at most the recipe's; None means the recipe's. The
    first step, which allocates memory, is not timed. A row's ``epochs`` is the length of the phase
    at the paper's scale.
    """
    setting = experiment.scales[scale]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = _Step(setting, batch, device)
    when = moments(setting.train.epochs)
    step.forward_backward(when["end"])
    step.optimizer.step()
    lengths = dict(zip(PHASES, experiment.scales["paper"].train.epochs, strict=True))
    rows = []
    for phase, done in when.items():
        passes = _seconds(partial(step.forward_backward, done), device)
        update = _seconds(step.optimizer.step, device)
        p = step.recipe.p
        row = {"experiment": experiment.name, "phase": phase, "epochs": lengths[phase]}
        row |= {"after": done, "p": "inf" if math.isinf(p) else p}
        row |= {"batch": step.batch, "recipe_batch": setting.train.batch_size, "flops": step.flops}
        rows.append(row | dict(zip(STEP_PARTS, ([passes], [update]), strict=True)))
    if device.type == "cuda":
        peak = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
        rows = [row | {"peak_memory_mb": peak} for row in rows]
    return rows


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        return best_seconds(call, device, rounds=1)
    started = time.process_time()
    call()
    return time.process_time() - started


class _Step:
    """A network with one batch, and the two parts of its training step."""

    def __init__(self, setting: Setting, batch: int | None, device: torch.device) -> None:
        info = data.DATASETS[setting.dataset]
        self.config = setting.train
        self.batch = min(batch or self.config.batch_size, self.config.batch_size)
        on_gpu = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(on_gpu), device:
            net = build(setting, info, seed=0).train()
            shape = (self.batch, *info.input_shape)
            pixels = torch.randint(256, shape, dtype=torch.uint8)
            labels = torch.randint(info.num_classes, (self.batch,))
        images = data.ImageSet(pixels, labels, info)
        self.batches = Batches(images, self.config.augmentation, self.batch, seed=0)
        self.recipe = recipe_of(self.config, net)
        self.optimizer = self.recipe.optimizer
        self.flops = flop_count(net)

    def forward_backward(self, done: float) -> None:
        """Compute the gradients of a step after ``done`` epochs of the schedule."""
        progress = self.recipe.set_progress(done)
        for group in self.optimizer.param_groups:
            group["lr"] = STILL_LR
        pixels, labels = self.batches.get(0, 0)
        with matmul_precision(self.config.matmul_precision):
            loss, _ = self.recipe.objective(pixels, labels, *progress)
            self.optimizer.zero_grad()
            loss.backward()
