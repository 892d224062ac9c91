"""Timing on a GPU, on a device that is made up: each call is queued, and runs by a clock."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from linfdist.bench import roofline, timing

CUDA = torch.device("cuda")


class Gpu:
    """Launching a call takes 1 ms of the host's time and then 4 ms of the device's."""

    def __init__(self) -> None:
        self.host = self.device = 0.0
        self.held = self.peak = 0

    def call(self, megabytes: int = 0, seconds: float = 0.004, launch: float = 0.001) -> None:
        self.host += launch
        self.device = max(self.device, self.host) + seconds
        self.peak = max(self.peak, self.held + megabytes * 10**6)

    def synchronize(self, *_) -> None:
        self.host = self.device = max(self.host, self.device)

    def reset_peak_memory_stats(self, *_) -> None:
        self.peak = self.held


class Event:
    """Takes the device's time when the work before it is done."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def record(self) -> None:
        self.time = max(self.gpu.host, self.gpu.device)

    def synchronize(self) -> None:
        self.gpu.synchronize()

    def elapsed_time(self, end: "Event") -> float:
        return 1e3 * (end.time - self.time)


PROPERTIES = SimpleNamespace(
    major=9,
    minor=0,
    multi_processor_count=132,
    clock_rate=1_750_000,
    L2_cache_size=50 * 2**20,
)


@pytest.fixture
def gpu(monkeypatch):
    made_up = Gpu()
    fakes = {
        "synchronize": made_up.synchronize,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": made_up.reset_peak_memory_stats,
        "memory_allocated": lambda *_: made_up.held,
        "max_memory_allocated": lambda *_: made_up.peak,
        "Event": lambda enable_timing: Event(made_up),
        "device": lambda *_: contextlib.nullcontext(),
        "get_device_properties": lambda *_: PROPERTIES,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made_up.host)
    return made_up


def test_calls_follow_one_another_and_only_the_first_launch_is_waited_for(gpu):
    race = timing.race({"ours": [gpu.call]}, CUDA, rounds=3, patience=1.0)
    ours = race["ours"]
    assert ours.rounds == 3
    # Five calls fill the window of 20 ms at the 4 or 5 ms of the first one: 1 + 4 · 4 ms.
    assert ours.seconds == pytest.approx(0.004 + 0.001 / 4)
    assert ours.launch_seconds == pytest.approx(0.001)


def test_a_gap_of_launching_shows(gpu):
    slow = lambda: gpu.call(launch=0.010)  # noqa: E731
    ours = timing.race({"ours": [slow]}, CUDA, rounds=1, patience=1.0)["ours"]
    assert ours.launch_seconds == pytest.approx(0.010)
    assert ours.seconds > ours.launch_seconds > 2 * 0.004


def test_each_candidate_is_called_on_every_set_of_inputs(gpu):
    seen = []
    calls = [lambda i=i: (gpu.call(), seen.append(i)) and None for i in range(3)]
    timing.race({"ours": calls}, CUDA, rounds=1, patience=1.0)
    assert seen == [0, 0, 0, 1, 2, 0]  # the check, the warm-up, then four


def test_memory_is_what_a_call_holds_beyond_what_was_held(gpu):
    gpu.held = 10**9
    calls = {"ours": [lambda: gpu.call(30)], "peer": [lambda: gpu.call(7)]}
    found = timing.race(calls, CUDA, rounds=1, patience=1.0)
    assert [found[name].peak_memory_mb for name in calls] == [30, 7]
    whole = timing.race(calls, CUDA, rounds=1, patience=1.0, baseline=0)
    assert whole["ours"].peak_memory_mb == 1030


def test_a_slow_one_is_called_once_and_has_no_time_of_launching(gpu):
    slow = lambda: gpu.call(seconds=9.0)  # noqa: E731
    ours = timing.race({"ours": [slow]}, CUDA, rounds=3, patience=5.0)["ours"]
    assert (ours.rounds, ours.launch_seconds) == (1, None)
    assert ours.seconds == pytest.approx(9.001)


def test_a_slow_compiled_one_is_called_once_more(gpu):
    times = iter((9.0, 0.5, 0.5))
    compiled = lambda: gpu.call(seconds=next(times))  # noqa: E731
    contenders = {"ours": [gpu.call], "compiled": [compiled]}
    found = timing.race(contenders, CUDA, rounds=3, patience=5.0, compiled=("compiled",))
    assert found["compiled"].rounds == 1
    assert found["compiled"].seconds == pytest.approx(0.501)


@pytest.mark.parametrize(("bytes_of_one", "sets"), [(10**6, 16), (150 * 2**20, 3), (10**10, 2)])
@pytest.mark.usefixtures("gpu")
def test_the_inputs_are_more_than_the_cache_holds(bytes_of_one, sets):
    assert timing.input_sets(bytes_of_one, CUDA) == sets


def test_on_a_cpu_one_set_is_enough():
    assert timing.input_sets(1, torch.device("cpu")) == 1


def test_the_hardware_is_read_and_its_bandwidth_measured(gpu, monkeypatch):
    monkeypatch.setattr(roofline, "_copy_seconds", lambda device: 2**31 / 3e12)
    assert roofline.hardware(CUDA) == roofline.Hardware(
        capability="9.0",
        multiprocessors=132,
        clock_mhz=1750,
        bandwidth_gb_per_second=pytest.approx(3000),
    )


@pytest.mark.parametrize(("answer", "clock"), [("1980\n", 1980.0), ("[N/A]\n", None), (None, None)])
def test_an_older_torch_has_the_clock_from_nvidia_smi_if_it_is_there(answer, clock, monkeypatch):
    def nvidia_smi(command, **_):
        assert command[0] == "nvidia-smi" and command[-1] == "--id=GPU-1234"
        if answer is None:
            raise FileNotFoundError(command[0])
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(roofline.subprocess, "run", nvidia_smi)
    assert roofline._clock_mhz(SimpleNamespace(uuid="1234")) == clock


def test_what_is_unknown_is_printed_as_unknown():
    known = roofline.Hardware(
        capability="9.0", multiprocessors=132, clock_mhz=1750.0, bandwidth_gb_per_second=2951.2
    )
    assert str(known) == "132 multiprocessors, 1750 MHz, 2951 GB/s measured"
    unknown = replace(known, clock_mhz=None, bandwidth_gb_per_second=None)
    assert "unknown clock, so no roofline, unknown bandwidth" in str(unknown)
