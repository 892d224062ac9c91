"""Training on a GPU: no step waits for it."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.dots import KINDS, LOSSES, TRAIN, fresh

from linfdist.training.state import TrainingState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def waiting_is_an_error():
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@LOSSES
@pytest.mark.parametrize("p_start", [8.0, math.inf])
def test_no_step_waits_for_the_gpu(net_config, config, p_start, waiting_is_an_error):
    """Over the end of an epoch too, where the next one is drawn and copied."""
    config = replace(config, p_start=p_start)
    run = TrainingState(fresh(net_config), TRAIN, config, 0, None, "cuda")
    waiting_is_an_error()
    for _ in range(2 * run.steps_per_epoch):
        run.train_step()


@KINDS
def test_the_gpu_s_batches_are_the_cpu_s(net_config, config):
    runs = [
        TrainingState(fresh(net_config), TRAIN, config, 0, None, device)
        for device in ("cpu", "cuda")
    ]
    for epoch, index in [(0, 0), (1, 3)]:
        here, there = (run.batches.get(epoch, index) for run in runs)
        assert torch.equal(here[0], there[0].cpu()) and torch.equal(here[1], there[1].cpu())
