"""Timing of calls: rounds that alternate between the candidates, on the device's own clock.

On a GPU, a round calls a candidate many times back to back between two events, after one call that
does not count. The calls cycle through several sets of inputs that together exceed the cache. The
result is the rate that training sees: the time of the kernels, or the time of launching them if
that is longer. The launch time is also reported on its own, so a gap between the two is visible.

On a CPU, one call is one measurement.
"""

import math
import statistics
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

Row = dict[str, Any]  # one line of a bench: its case, candidate and times
Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)
WINDOW = 0.02  # seconds of GPU work between two events, thousands of times their resolution
MOST_CALLS = 64  # with a dozen kernels each they fit the queue, so launching never waits
MOST_SETS = 16
MOST_LETTERS = 160  # shown of a peer's error


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One candidate's times: seconds per call, in the best round and in the median round."""

    seconds: float
    median_seconds: float
    rounds: int
    launch_seconds: float | None  # CPU time to launch a call on a GPU; None on a CPU
    peak_memory_mb: float | None  # held at once beyond the inputs; None on a CPU
    note: str = ""

    def columns(self) -> dict[str, object]:
        """The columns of a row of the bench; those that do not exist on a CPU are left out."""
        cells: dict[str, object] = {
            "seconds": self.seconds,
            "median_seconds": self.median_seconds,
            "rounds": self.rounds,
        }
        on_gpu = {"launch_seconds": self.launch_seconds, "peak_memory_mb": self.peak_memory_mb}
        return cells | {name: value for name, value in on_gpu.items() if value is not None}


def input_sets(bytes_of_one: int, device: torch.device) -> int:
    """The number of input sets that a candidate needs so that the cache cannot hold them all."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MOST_SETS, 1 + math.ceil(4 * cache / max(1, bytes_of_one)))


def race(
    candidates: Mapping[Name, Sequence[Call]],
    device: torch.device,
    *,
    rounds: int,
    patience: float,
    compiled: Collection[str] = (),
    checked: bool = True,
    baseline: int | None = None,
) -> dict[Name, Timing | str]:
    """Time the candidates in rounds; the first candidate is ours.

    The result of each candidate's first call is compared with ours, and the call is not timed. If
    the first call takes more than ``patience`` seconds, its time counts and the candidate is not
    called again; a candidate in ``compiled`` is called once more. A candidate that cannot run has
    the reason in place of a timing. A candidate whose result disagrees has a note. An error of ours
    is raised.

    Args:
        candidates: the same call on one or more sets of inputs, for each candidate.
        device: the device to time on.
        rounds: the number of rounds.
        patience: the most seconds of a first call after which further rounds follow.
        compiled: the names of candidates whose first call compiles.
        checked: compare the results with ours.
        baseline: bytes from which memory is counted; by default those held before the first call.
    """
    runners = {
        name: _Runner(calls, device, patience, name in compiled)
        for name, calls in candidates.items()
    }
    ours, *peers = runners.values()
    expected = ours.start(baseline)
    for peer in peers:
        peer.attempt(peer.start, baseline, expected if checked else None)
    del expected
    for _ in range(rounds):
        ours.again()
        for peer in peers:
            peer.attempt(peer.again)
    return {name: runner.failed or runner.timing() for name, runner in runners.items()}


class _Runner:
    """One candidate: its calls, their times so far, and the reason if it is out of the race."""

    def __init__(
        self, calls: Sequence[Call], device: torch.device, patience: float, compiled: bool
    ) -> None:
        self.calls = calls
        self.device = device
        self.patience = patience
        self.compiled = compiled
        self.rounds: list[tuple[float, float]] = []
        self.note = self.failed = ""

    def attempt(self, action: Callable[..., object], *arguments: object) -> None:
        """Call ``action``, a method of this runner; an error of a peer becomes its row's note."""
        if self.failed:
            return
        try:
            action(*arguments)
        except Exception as error:
            self.failed = (str(error) or type(error).__name__).splitlines()[0][:MOST_LETTERS]

    def start(self, baseline: int | None, expected: object = None) -> object:
        """Make the first call and compare its result with ``expected``."""
        self.first, self.memory, result = _first(self.calls[0], self.device, baseline)
        if expected is not None and not agree(expected, result):
            self.note = "differs by more than 1 %"
        return result

    def again(self) -> None:
        """Time one more round, if the first call was fast enough."""
        if self.first <= self.patience or (self.compiled and not self.rounds):
            self.rounds.append(_round(self.calls, self.device))

    def timing(self) -> Timing:
        rounds = self.rounds or [(self.first, self.first)]
        seconds = [one for one, _ in rounds]
        on_gpu = self.device.type == "cuda" and self.rounds
        return Timing(
            seconds=min(seconds),
            median_seconds=statistics.median(seconds),
            rounds=len(seconds),
            launch_seconds=min(launch for _, launch in rounds) if on_gpu else None,
            peak_memory_mb=self.memory,
            note=self.note,
        )


def best_seconds(call: Call, device: torch.device, rounds: int = 5) -> float:
    """The seconds of one call in the best of ``rounds`` rounds."""
    return min(_round([call], device)[0] for _ in range(rounds))


def _first(
    call: Call, device: torch.device, baseline: int | None
) -> tuple[float, float | None, object]:
    """Make the first call; return its seconds, its memory in MB on a GPU, and its result."""
    memory = None
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory of other candidates that this one cannot use
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device) if baseline is None else baseline
    started = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        memory = round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 1)
    return time.perf_counter() - started, memory, result


def _round(calls: Sequence[Call], device: torch.device) -> tuple[float, float]:
    """The seconds of one call, and the CPU's seconds to launch it."""
    if device.type != "cuda":
        started = time.perf_counter()
        calls[0]()
        seconds = time.perf_counter() - started
        return seconds, seconds
    alone, _ = _between_events(calls[:1], 1, device)  # the warm-up; it also sets the count
    count = min(MOST_CALLS, max(1, round(WINDOW / alone)))
    return _between_events(calls, count, device)


def _between_events(calls: Sequence[Call], count: int, device: torch.device) -> tuple[float, float]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        begin.record()
        started = time.perf_counter()
        for index in range(count):
            calls[index % len(calls)]()
        launched = time.perf_counter() - started
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1e3 / count, launched / count


def agree(ours: object, theirs: object) -> bool:
    """Whether two results agree to 1 %, the accuracy of single precision at a large power."""
    for a, b in zip(_tensors(ours), _tensors(theirs), strict=True):
        if not bool((a - b).abs().max() < 1e-2 * a.abs().max().clamp_min(1e-30)):
            return False
    return True


def _tensors(result: object) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
