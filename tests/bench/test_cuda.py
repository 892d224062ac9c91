"""The bench on a real GPU: its clock, its memory and its rooflines."""

import math

import pytest
import torch

from linfdist.bench import distances, iterations, peers, roofline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HOW = {"device": torch.device("cuda"), "rounds": 2, "patience": 60.0}


@pytest.fixture
def gpu():
    return roofline.hardware(HOW["device"])


def test_the_hardware_is_known(gpu):
    assert gpu.multiprocessors > 1
    assert gpu.clock_mhz is None or 500 < gpu.clock_mhz < 5000
    assert 10 < gpu.bandwidth_gb_per_second < 20_000


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("p", distances.P_VALUES)
def test_distances_are_timed_with_their_launch_and_memory(gpu, p, backward, monkeypatch):
    monkeypatch.setattr(peers, "_compiled", lambda p: lambda x, w: peers._broadcast(x, w, p))
    ours, *_ = distances.measure((64, 96, 128), p, backward, hardware=gpu, **HOW)
    assert ours["seconds"] > 0 and ours["launch_seconds"] > 0
    assert ours["peak_memory_mb"] >= 4 * 64 * 128 / 1e6 - 0.1
    known = gpu.clock_mhz is not None and gpu.capability in roofline.FMA
    assert ("roofline_share" in ours) is known


def test_a_step_counts_its_weights_gradients_and_moments(gpu):
    rows = iterations.measure("table1/mnist_net", "smoke", math.inf, hardware=gpu, **HOW)
    assert [row["note"] for row in rows] == [""] * 4
    assert all(row["launch_seconds"] > 0 for row in rows)
    gradients, moments, *optimizers = rows
    weight_mb = 4 * gradients["weights"] / 1e6
    assert gradients["peak_memory_mb"] >= 2 * weight_mb - 0.1
    assert moments["peak_memory_mb"] >= 4 * weight_mb - 0.1
    assert not any("peak_memory_mb" in row for row in optimizers)
