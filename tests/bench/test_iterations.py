"""Whole steps of training are timed in their parts, and leave the weights alone."""

import math

import pytest
import torch

from linfdist import experiments
from linfdist.bench import iterations, roofline

CPU = torch.device("cpu")
NET = "table1/mnist_net"


def measure(p, **given):
    settings = {"device": CPU, "rounds": 1, "patience": 60.0} | given
    return iterations.measure(NET, "smoke", p, **settings)


def test_beside_a_real_power_stand_the_products_that_replace_it():
    rows = [row for row in measure(8.7) if row["part"] == "forward+backward"]
    names = [row["candidate"] for row in rows]
    assert names == ["linfdist", "linfdist.lse_dist", "linfdist.lse_dist, bfloat16"]
    assert all(row["seconds"] > 0 and row["note"] == "" for row in rows)


@pytest.mark.parametrize("p", [math.inf, 8.0])
def test_a_row_for_each_part_and_one_for_the_optimizers_peer(p):
    rows = measure(p)
    assert [(row["part"], row["candidate"]) for row in rows] == [
        ("forward+backward", "linfdist"),
        ("iteration", "linfdist"),
        ("optimizer", "linfdist"),
        ("optimizer", "torch.optim.AdamW(fused)"),
    ]
    for row in rows:
        assert row.items() >= iterations.case(NET, "smoke", p).items()
        assert row["batch"] == 64
        assert row["weights"] == 64 * 48 + 48 * 48 + 48 * 10
        assert row["seconds"] > 0 and row["note"] == ""
        assert "roofline_share" not in row


def test_shares_of_the_roofline_add_compute_and_memory():
    gpu = roofline.Hardware(
        capability="9.0", multiprocessors=1, clock_mhz=1.0, bandwidth_gb_per_second=1e-3
    )
    compute, whole, memory, peer = (
        row["roofline_share"] * row["seconds"] for row in measure(8.0, hardware=gpu)
    )
    weights = 64 * 48 + 48 * 48 + 48 * 10
    assert compute == pytest.approx(64 * weights * (4 + 7) / 128 / 1e6)
    assert [memory, peer] == pytest.approx([28 * weights / 1e6] * 2)
    assert whole == pytest.approx(compute + memory)


def test_without_a_bandwidth_the_optimizer_has_no_roofline():
    gpu = roofline.Hardware(
        capability="9.0", multiprocessors=1, clock_mhz=1.0, bandwidth_gb_per_second=None
    )
    assert ["roofline_share" in row for row in measure(8.0, hardware=gpu)] == [1, 0, 0, 0]


def test_the_weights_stay_where_they_were():
    step = iterations._Step(experiments.get_setting(NET, "smoke"), 8.0, CPU)
    before = [param.detach().clone() for param in step.net.parameters()]
    for _ in range(10):
        step.iteration()
        step.adamw.step()
    for old, new in zip(before, step.net.parameters(), strict=True):
        assert 0 < (old - new).abs().max() < 1e-3


def test_a_peer_that_fails_has_its_reason(monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no fused kernel here")

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    *_, peer = measure(math.inf)
    assert peer["note"] == "no fused kernel here" and "seconds" not in peer
