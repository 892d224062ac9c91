"""Timings of a training step of the paper's nets: forward and backward, the optimizer, and both.

The step is the trainer's own, except that the data are random: pixels through the net, the hinge
loss, gradients, ``LpAdamW``. Two comparisons give a sense of scale:

- The optimizer is timed beside torch's fused AdamW on the same weights, which does less because its
  decay is plain.
- Forward and backward at a real p are timed beside those with LogSumExp, matched to the same p.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch

from linfdist import data, experiments
from linfdist.bench import roofline
from linfdist.bench.peers import OURS, SMOOTHED
from linfdist.bench.timing import Row, Timing, race
from linfdist.experiments import Setting
from linfdist.nn import LogSumExp, build_net, parameter_count
from linfdist.ops.precision import matmul_precision
from linfdist.optim import LpAdamW, param_groups, set_p
from linfdist.robust import hinge_loss

NETS = ("table1/mnist_net", "table1/cifar10_net")
SCALE_OF_DEVICE: Mapping[str, str] = MappingProxyType({"cpu": "reduced", "cuda": "paper"})
FORWARD_BACKWARD, OPTIMIZER, ITERATION = "forward+backward", "optimizer", "iteration"
ADAMW = "torch.optim.AdamW(fused)"
STILL_LR = 1e-6  # so small that the weights keep their initial values over all rounds
STEP_BYTES = 28  # per weight: read it, its gradient and two moments; write it and the moments


def case(name: str, scale: str, p: float) -> Row:
    """The columns that say what is timed."""
    return {"net": name, "scale": scale, "p": "inf" if math.isinf(p) else p}


def measure(
    name: str,
    scale: str,
    p: float,
    *,
    device: torch.device,
    rounds: int,
    patience: float,
    hardware: roofline.Hardware | None = None,
) -> list[Row]:
    """One row per part of the step and candidate.

    Args:
        name: the experiment, as in "table1/mnist_net".
        scale: the experiment's scale.
        p: the power of the distance.
        device: the device to time on.
        rounds: as in ``race``.
        patience: as in ``race``.
        hardware: the GPU's rates for the roofline, if they are known.
    """
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    setting = experiments.get_setting(name, scale)
    step = _Step(setting, p, device)
    calls: dict[tuple[str, str], list[Callable[[], object]]] = {
        (FORWARD_BACKWARD, OURS): [step.forward_backward],
        (ITERATION, OURS): [step.iteration],
        (OPTIMIZER, OURS): [step.optimizer.step],
        (OPTIMIZER, ADAMW): [step.adamw.step],
    }
    if p < math.inf and not p.is_integer():
        for candidate, precision in SMOOTHED.items():
            calls[FORWARD_BACKWARD, candidate] = [partial(step.smoothed, precision)]
    timings = race(calls, device, rounds=rounds, patience=patience, checked=False, baseline=before)
    weights = parameter_count(step.net)
    pairs = setting.train.batch_size * weights
    compute = roofline.least_seconds(pairs, p, True, hardware)
    bandwidth = hardware and hardware.bandwidth_gb_per_second
    memory = STEP_BYTES * weights / (1e9 * bandwidth) if bandwidth else None
    whole = None if compute is None or memory is None else compute + memory
    least = {FORWARD_BACKWARD: compute, ITERATION: whole, OPTIMIZER: memory}
    what = case(name, scale, p) | {"batch": setting.train.batch_size, "weights": weights}
    rows = []
    for (part, candidate), timing in timings.items():
        row = what | {"part": part, "candidate": candidate}
        if not isinstance(timing, Timing):
            rows.append(row | {"note": timing})
            continue
        row |= timing.columns()
        if part == OPTIMIZER:
            row.pop("peak_memory_mb", None)  # it includes the other optimizer's moments
        bound = least[part]
        if bound is not None and candidate not in SMOOTHED:  # LogSumExp computes no powers
            row["roofline_share"] = bound / timing.seconds
        rows.append(row | {"note": timing.note})
    return rows


class _Step:
    """A net with one batch, and the parts of its training step."""

    def __init__(self, setting: Setting, p: float, device: torch.device) -> None:
        info = data.DATASETS[setting.dataset]
        config, train = setting.dist_net()
        loss = setting.hinge()
        self.p = p
        on_gpu = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(on_gpu), device:  # 10^8 weights take seconds on a CPU
            torch.manual_seed(0)
            self.net = build_net(
                config,
                input_shape=info.input_shape,
                num_classes=info.num_classes,
                mean=info.mean,
                std=info.std,
            ).train()
            self.pixels = torch.rand(train.batch_size, *info.input_shape)
            self.labels = torch.randint(info.num_classes, (train.batch_size,))
        self.threshold, self.mix = float(loss.threshold) * self.net.features.lipschitz, loss.mix
        self.optimizer = LpAdamW(param_groups(self.net), lr=STILL_LR)
        set_p(self.optimizer, p)
        self.adamw = torch.optim.AdamW(self.net.parameters(), lr=STILL_LR, fused=True)

    def smoothed(self, precision: str) -> None:
        with matmul_precision(precision):
            self.forward_backward(LogSumExp(self.p - 1, matched=True))

    def forward_backward(self, p: float | LogSumExp | None = None) -> None:
        logits = self.net(self.pixels, self.p if p is None else p)
        loss = hinge_loss(logits, self.labels, self.threshold, self.mix)
        self.optimizer.zero_grad()
        loss.backward()

    def iteration(self) -> None:
        self.forward_backward()
        self.optimizer.step()
