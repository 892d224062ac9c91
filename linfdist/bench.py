"""Speed of the ops, ours beside the best that other libraries offer, in one run.

Peers: ``torch.cdist``, ``torch.compile`` of the broadcast formula, numba (a parallel loop) and
scipy's ``cdist``, each where it is installed and can do the job. Every peer's result is checked
against ours before it is timed. Machines are noisy, so the ratio to the best peer is the claim;
rounds alternate between the candidates and the fastest round of each counts.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from linfdist import environment
from linfdist.ops import lp_dist, reference

SHAPES = ((512, 784, 1024), (512, 5120, 5120))  # batch, in_features, out_features
P_VALUES = (math.inf, 8.0, 8.7)
COMPILED = ("torch.compile", "numba")  # their first call compiles, and is not timed
Call = Callable[[], object]
Distance = Callable[[Tensor, Tensor], Tensor]


def _broadcast(x: Tensor, weight: Tensor, p: float) -> Tensor:
    """The formula as one would write it; the compiler fuses it, so nothing is stored."""
    difference = (x.unsqueeze(1) - weight).abs()
    if math.isinf(p):
        return difference.amax(-1)
    top = difference.amax(-1, keepdim=True)
    return (difference / top).pow(p).sum(-1).pow(1 / p) * top.squeeze(-1)


def _compiled(p: float) -> Distance:
    torch.compiler.reset()  # dynamo keeps few variants of one function; each case is one
    compiled = torch.compile(_broadcast, fullgraph=True, dynamic=False)
    return lambda x, weight: compiled(x, weight, p)


def _numba(p: float) -> Distance:
    import numba
    import numpy as np

    infinite = math.isinf(p)

    @numba.njit(parallel=True, fastmath={"contract", "nsz", "reassoc", "arcp"})
    def distances(x, weight, out):
        for b in numba.prange(x.shape[0]):
            for j in range(weight.shape[0]):
                total = np.float32(0)
                for i in range(x.shape[1]):
                    d = abs(x[b, i] - weight[j, i])
                    total = max(total, d) if infinite else total + d ** np.float32(p)
                out[b, j] = total if infinite else total ** np.float32(1 / p)

    numba.set_num_threads(torch.get_num_threads())

    def run(x: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty(len(x), len(weight))
        distances(x.numpy(), weight.numpy(), out.numpy())
        return out

    return run


def _scipy(p: float) -> Distance:
    from scipy.spatial.distance import cdist

    def run(x: Tensor, weight: Tensor) -> Tensor:
        metric = {"metric": "chebyshev"} if math.isinf(p) else {"metric": "minkowski", "p": p}
        return torch.from_numpy(cdist(x.numpy(), weight.numpy(), **metric)).float()

    return run


def candidates(p: float, backward: bool, device: torch.device) -> dict[str, Distance | None]:
    """What is timed, ours first; None is not installed. numba and scipy: no gradient, no GPU."""
    found: dict[str, Distance | None] = {
        "linfdist": lambda x, weight: lp_dist(x, weight, p),
        "torch.cdist": lambda x, weight: torch.cdist(x, weight, p=p),
        "torch.compile": _compiled(p),
    }
    if not backward and device.type == "cpu":
        for name, make in (("numba", _numba), ("scipy", _scipy)):
            found[name] = make(p) if find_spec(name) else None
    return found


def _call(distance: Distance, x: Tensor, weight: Tensor, grad: Tensor | None) -> Call:
    if grad is None:
        return lambda: distance(x, weight)
    return lambda: torch.autograd.grad(distance(x, weight), (x, weight), grad)


def _timed(call: Call, device: torch.device) -> tuple[float, object]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


def _agree(ours: object, theirs: object) -> bool:
    """Whether two results are the same within single precision at a large power."""
    for a, b in zip(_tensors(ours), _tensors(theirs), strict=True):
        if not bool((a - b).abs().max() < 1e-2 * a.abs().max().clamp_min(1e-30)):
            return False
    return True


def _tensors(result: object) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


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
) -> list[dict[str, object]]:
    """One row a candidate: seconds, pairs a second and ours against it.

    The first call of each is checked against ours and not timed, unless it takes more than
    ``patience`` seconds: then it is the only one (a compiled candidate is called once more). One
    that cannot run is left out, one that disagrees marked, both with the reason; so is one that
    would take more than ``limit`` seconds at its earlier speed, in 10^9 pairs a second.
    """
    batch, in_features, out_features = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, in_features, generator=generator).to(device)
    weight = torch.randn(out_features, in_features, generator=generator).to(device)
    grad = None
    if backward:
        x.requires_grad_()
        weight.requires_grad_()
        grad = torch.randn(batch, out_features, generator=generator).to(device)
    calls: dict[str, Call] = {}
    first: dict[str, float] = {}
    notes: dict[str, str] = {}
    times: dict[str, list[float]] = {}
    expected: object = None
    pairs = batch * in_features * out_features
    for name, distance in candidates(p, backward, device).items():
        if distance is None:
            notes[name] = 'not installed: pip install -e ".[bench]"'
            continue
        estimate = pairs / 1e9 / speeds[name] if name in speeds else 0.0
        if name != "linfdist" and estimate > limit:
            notes[name] = f"left out: about {estimate:.0f} s by its speed at the smaller shape"
            continue
        call = _call(distance, x, weight, grad)
        try:
            seconds, result = _timed(call, device)  # compiles, if anything has to be
        except Exception as error:  # whatever a peer raises is its row's note
            if name == "linfdist":
                raise
            notes[name] = (str(error) or type(error).__name__).splitlines()[0]
            continue
        if expected is None:
            expected = result
        elif not _agree(expected, result):
            notes[name] = "differs by more than 1 %"
        calls[name], first[name], times[name] = call, seconds, []
    for _ in range(rounds):
        for name, call in calls.items():
            if first[name] <= patience or (not times[name] and name in COMPILED):
                times[name].append(_timed(call, device)[0])
    for name in calls:
        times[name] = times[name] or [first[name]]
    ours = min(times["linfdist"])
    rows = []
    for name in calls:
        best = min(times[name])
        rows.append(
            {
                "shape": f"{batch}x{in_features}->{out_features}",
                "p": "inf" if math.isinf(p) else p,
                "pass": "forward+backward" if backward else "forward",
                "candidate": name,
                "seconds": best,
                "median_seconds": statistics.median(times[name]),
                "rounds": len(times[name]),
                "giga_pairs_per_second": pairs / best / 1e9,
                "ours_is_faster_by": best / ours,
                "note": notes.get(name, ""),
            }
        )
    rows += [
        {"shape": rows[0]["shape"], "p": rows[0]["p"], "pass": rows[0]["pass"], "candidate": name}
        | {"note": note}
        for name, note in notes.items()
        if name not in calls
    ]
    return rows


def small_check() -> None:
    """Our ops agree with their reference before anything is timed."""
    x, weight = torch.randn(37, 65), torch.randn(29, 65)
    for p in P_VALUES:
        torch.testing.assert_close(
            lp_dist(x, weight, p), reference.lp_dist(x, weight, p), rtol=1e-5, atol=1e-6
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu or cuda; default: the GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default %(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="a candidate slower than this is timed once (default %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="leave out what would take longer at its speed so far (default %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="the small shape only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here as well")


def main(args: argparse.Namespace) -> int:
    """Print the table, and write it as JSON where asked."""
    device = environment.usable_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    small_check()
    surroundings = environment.describe(device)
    shapes = SHAPES[:1] if args.quick else SHAPES
    jobs = [(s, p, back) for s in shapes for p in P_VALUES for back in (False, True)]
    rows: list[dict[str, object]] = []
    speeds: dict[tuple[float, bool], dict[str, float]] = {}
    for shape, p, backward in tqdm(jobs, unit="case"):
        found = measure(
            shape,
            p,
            backward,
            device=device,
            rounds=args.rounds,
            patience=args.patience,
            limit=args.limit,
            speeds=speeds.get((p, backward), {}),
        )
        if args.json:  # after each case, so that a stopped run leaves what it measured
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(
                json.dumps({"environment": surroundings, "rows": rows + found}, indent=1)
            )
        speeds[p, backward] = {
            row["candidate"]: row["giga_pairs_per_second"] for row in found if "seconds" in row
        }
        rows += found
    table = pd.DataFrame(rows)
    print(f"{surroundings['device']}, {torch.get_num_threads()} threads, float32")
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return 0
