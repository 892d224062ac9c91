"""The speed that a GPU allows: pairs per second by instructions, bytes per second by bandwidth.

A pair is one |x − w|. Three kinds of instructions have a rate of their own per multiprocessor and
clock:

- the FMA pipe: add, multiply, multiply-add;
- minimum and maximum;
- special functions: exp2, log2.

Each multiprocessor also issues at most 128 instructions of all kinds per clock. The slowest of
these limits is the roofline.

A CPU has no roofline here: its clock depends on the vector instructions in use and on the load of
neighbouring cores.
"""

import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from linfdist.bench.timing import best_seconds

ISSUED = 128  # per clock and multiprocessor: four schedulers, each a warp of 32
MIN_MAX, SPECIAL = 64, 16
# Rate of the FMA pipe in float32, by compute capability. Source: CUDA C++ Programming Guide,
# throughput of arithmetic instructions.
FMA: Mapping[str, int] = MappingProxyType({"8.0": 64, "8.6": 128, "8.9": 128, "9.0": 128})
COPY_BYTES = 2**30  # far more than any cache


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The rates of a GPU; None means unknown, and a bound that needs the rate does not exist."""

    capability: str
    multiprocessors: int
    clock_mhz: float | None  # the highest, so a share of the roofline is never overstated
    bandwidth_gb_per_second: float | None  # by a copy in the same run, read plus written

    def __str__(self) -> str:
        clock = (
            "unknown clock, so no roofline" if self.clock_mhz is None else f"{self.clock_mhz:g} MHz"
        )
        bandwidth = self.bandwidth_gb_per_second
        memory = "unknown bandwidth" if bandwidth is None else f"{bandwidth:.0f} GB/s measured"
        return f"{self.multiprocessors} multiprocessors, {clock}, {memory}"


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """Instructions of one pair, by pipe."""

    fma: int
    min_max: int = 0
    special: int = 0


def hardware(device: torch.device) -> Hardware | None:
    """The device's rates; None for a CPU."""
    if device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    return Hardware(
        capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        clock_mhz=_clock_mhz(properties),
        bandwidth_gb_per_second=2 * COPY_BYTES / _copy_seconds(device) / 1e9,
    )


def _clock_mhz(properties: Any) -> float | None:
    """The highest clock: from torch, else from nvidia-smi, else None."""
    if clock_khz := getattr(properties, "clock_rate", 0):
        return clock_khz / 1e3
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(
            [*query, f"--id=GPU-{properties.uuid}"], capture_output=True, text=True, check=True
        )
        return float(answer.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def _copy_seconds(device: torch.device) -> float:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return best_seconds(lambda: target.copy_(source), device)


def instructions(p: float, backward: bool, capability: str) -> Instructions | None:
    """The least cost of one pair; None if it is unknown or does not grow with the pairs.

    - Forward: a subtraction; then at p = ∞ a maximum, at finite p the power and the sum.
    - A real power is exp2(p log2), scaled by a multiply-add.
    - A whole power may instead be a chain of multiplications by repeated squaring. In the forward
      pass the last multiplication is fused with the sum.
    - Backward: both gradients come from one power p − 1, scaled. Each takes a multiply-add, which
      includes the last multiplication of a chain.
    - Backward at p = ∞: the pass touches one entry of each neuron, so the result is None.

    A kernel can exceed the roofline of a real power in two ways. It can skip differences that are
    negligible beside the largest, as most are at a large p, or compute some powers of two as
    polynomials.
    """
    if capability not in FMA or (math.isinf(p) and backward):
        return None
    if math.isinf(p):
        return Instructions(fma=1, min_max=1)
    ways = [Instructions(fma=4 if backward else 3, special=2)]
    power = p - 1 if backward else p
    if power == int(power):
        chain = _multiplications(int(power))
        ways.append(Instructions(fma=3 + chain if backward else 1 + max(1, chain)))
    return max(ways, key=lambda cost: pairs_per_clock(cost, capability))


def _multiplications(power: int) -> int:
    """Multiplications of repeated squaring: one per bit after the first, one more if it is set."""
    return power.bit_length() + power.bit_count() - 2 if power > 0 else 0


def pairs_per_clock(cost: Instructions, capability: str) -> float:
    """The pairs of this ``cost`` that a multiprocessor can process in one clock."""
    pipes = ((cost.fma, FMA[capability]), (cost.min_max, MIN_MAX), (cost.special, SPECIAL))
    issued = ISSUED / (cost.fma + cost.min_max + cost.special)
    return min(issued, *(rate / count for count, rate in pipes if count))


def pairs_per_second(p: float, backward: bool, hardware: Hardware | None) -> float | None:
    """The roofline of one pass; None if it has none."""
    if hardware is None or hardware.clock_mhz is None:
        return None
    cost = instructions(p, backward, hardware.capability)
    if cost is None:
        return None
    a_clock = pairs_per_clock(cost, hardware.capability)
    return a_clock * hardware.multiprocessors * hardware.clock_mhz * 1e6


def least_seconds(
    pairs: float, p: float, with_backward: bool, hardware: Hardware | None
) -> float | None:
    """The least time of forward, or of forward and backward; at p = ∞ of forward alone."""
    forward = pairs_per_second(p, False, hardware)
    if forward is None:
        return None
    backward = pairs_per_second(p, True, hardware) if with_backward else None
    return pairs / forward + (pairs / backward if backward else 0.0)
