"""Timings of the distances: ours and the peers' at one shape, one p and one pass."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from linfdist.bench import peers, roofline
from linfdist.bench.peers import NO_PEERS, OURS, DistanceFunction, Peer
from linfdist.bench.timing import Call, Row, Timing, input_sets, race
from linfdist.ops import lp_dist, lse_dist, reference
from linfdist.ops.precision import matmul_precision

# (batch, in_features, out_features): the paper's nets on a GPU; on a CPU, shapes that take minutes
BENCH_SHAPES: Mapping[str, tuple[tuple[int, int, int], ...]] = MappingProxyType(
    {
        "cpu": ((512, 784, 1024), (512, 5120, 5120)),
        "cuda": ((512, 784, 5120), (512, 3072, 5120), (512, 5120, 5120)),
    }
)
P_VALUES = (math.inf, 8.0, 8.7, 1000.0)


def small_check(device: torch.device) -> None:
    """Check that our ops agree with their reference; called before anything is timed."""
    x, weight = torch.randn(37, 65, device="cpu"), torch.randn(29, 65, device="cpu")
    for p in P_VALUES:
        ours = lp_dist(x.to(device), weight.to(device), p).cpu()
        torch.testing.assert_close(ours, reference.lp_dist(x, weight, p), rtol=1e-5, atol=1e-6)
    for t in (1.0, 1e3):  # computed by products, and pair by pair
        ours = lse_dist(x.to(device), weight.to(device), t).cpu()
        torch.testing.assert_close(ours, reference.lse_dist(x, weight, t)[0], rtol=1e-5, atol=1e-6)


def case(shape: tuple[int, int, int], p: float, backward: bool) -> Row:
    """The columns that say what is timed."""
    batch, in_features, out_features = shape
    return {
        "shape": f"{batch}x{in_features}->{out_features}",
        "p": "inf" if math.isinf(p) else p,
        "pass": "forward+backward" if backward else "forward",
    }


def measure(
    shape: tuple[int, int, int],
    p: float,
    backward: bool,
    *,
    device: torch.device,
    rounds: int,
    patience: float,
    limit: float = math.inf,
    speeds: Mapping[str, float] = MappingProxyType({}),
    extra: Mapping[str, Peer] = NO_PEERS,
    hardware: roofline.Hardware | None = None,
) -> list[Row]:
    """One row per candidate: seconds, pairs per second, and how many times faster ours is.

    ``race`` does the timing. A peer that cannot run, or that would take longer than ``limit``, has
    a row with nothing except the reason.

    Args:
        shape: (batch, in_features, out_features).
        p: the power of the distance.
        backward: time forward and backward together, instead of forward alone.
        device: the device to time on.
        rounds: as in ``race``.
        patience: as in ``race``.
        limit: the most seconds that a peer's call may take, as estimated from ``speeds``.
        speeds: each candidate's earlier speed, in 10^9 pairs per second.
        extra: the user's own peers, by name.
        hardware: the GPU's rates for the roofline, if they are known.
    """
    pairs = math.prod(shape)
    contenders: dict[str, list[Call]] = {}
    notes: dict[str, str] = {}
    inputs = _inputs(shape, backward, device)
    for name, distance in peers.candidates(p, backward, device, extra).items():
        estimate = pairs / 1e9 / speeds[name] if name in speeds else 0.0
        if distance is None:
            notes[name] = 'not installed: pip install -e ".[bench]"'
        elif name != OURS and estimate > limit:
            notes[name] = f"left out: about {estimate:.0f} s, estimated from the smaller shape"
        else:
            precision = peers.SMOOTHED.get(name, "highest")
            contenders[name] = [_call(distance, *given, precision) for given in inputs]
    timings = race(contenders, device, rounds=rounds, patience=patience, compiled=peers.COMPILED)
    least = roofline.least_seconds(pairs, p, backward, hardware)
    notes |= {name: reason for name, reason in timings.items() if isinstance(reason, str)}
    timed = {name: timing for name, timing in timings.items() if isinstance(timing, Timing)}
    ours = timed[OURS]
    what = case(shape, p, backward)
    rows = []
    for name, timing in timed.items():
        row = what | {"candidate": name} | timing.columns()
        row["giga_pairs_per_second"] = pairs / timing.seconds / 1e9
        row["ours_is_faster_by"] = timing.seconds / ours.seconds
        if least is not None:
            row["roofline_share"] = least / timing.seconds
        note = "another function" if name in peers.SMOOTHED else timing.note
        rows.append(row | {"note": note})
    return rows + [what | {"candidate": name, "note": note} for name, note in notes.items()]


def _inputs(
    shape: tuple[int, int, int], backward: bool, device: torch.device
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """As many sets of inputs as the device needs: x, weight, and a gradient if ``backward``."""
    batch, in_features, out_features = shape
    generator = torch.Generator(device).manual_seed(0)
    random = partial(torch.randn, generator=generator, device=device)
    one = 4 * (batch + out_features) * in_features
    sets = []
    for _ in range(input_sets(one, device)):
        x, weight = random(batch, in_features), random(out_features, in_features)
        grad = None
        if backward:
            grad = random(batch, out_features)
            x.requires_grad_()
            weight.requires_grad_()
        sets.append((x, weight, grad))
    return sets


def _call(
    distance: DistanceFunction, x: Tensor, weight: Tensor, grad: Tensor | None, precision: str
) -> Call:
    def call() -> Sequence[Tensor] | Tensor:
        with matmul_precision(precision):
            distances = distance(x, weight)
            return distances if grad is None else torch.autograd.grad(distances, (x, weight), grad)

    return call
