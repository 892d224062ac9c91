"""Processes that die: what they do, in a fresh fork each, and how they ended."""

import functools
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import forks
from helpers.dots import CONFIG, TRAIN, fresh

import linfdist.report
from linfdist import data, experiments, records
from linfdist.experiments import runner
from linfdist.testing import inject
from linfdist.training import loop

NAME = "table1/mnist_net"


def save_a_checkpoint(folder):
    """One more step, and a save after it."""
    loop.CHECKPOINT_SECONDS = 0.0
    path = folder / "work" / "c"
    fit = functools.partial(loop.fit, progress=False, checkpoint=path, stop_after_steps=1)
    fit(fresh(), TRAIN, CONFIG, seed=0)


def run_a_row(folder):
    """From the end of training, which is in the work folder, to the record."""
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, folder)
        runner.run(NAME, scale="smoke", device="cpu", progress=False)


def amend_a_record(folder):
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, folder)
        (run,) = records.find_runs()
        records.amend_run(run, new_column(run), noted="yes")


def new_column(run):
    return pd.DataFrame({"new": range(len(run.certificates))})


def print_a_table(folder):
    with pytest.MonkeyPatch.context() as patch:
        tiny(patch, folder)
        linfdist.report.text(1, "smoke")


def tiny(patch, folder):
    """A row of a twentieth of a second, with its records and its work in a folder."""
    patch.setenv("LINFDIST_RUNS", str(folder / "runs"))
    patch.setenv("LINFDIST_WORK", str(folder / "work"))
    smoke = experiments.get_setting(NAME, "smoke")
    train = replace(smoke.train, epochs=(1, 1, 1), train_images=128)
    setting = replace(smoke, net=replace(smoke.net, hidden=(4,)), train=train, test_images=20)
    patch.setattr(experiments, "get_setting", lambda name, scale: setting)
    patch.setattr(data, "load", digits)


@functools.cache
def digits(name, split):
    return _load(name, split)


_load = data.load


def _live_and_die(action, folder, step, bytes_left, reading):
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    if step:
        inject.die_at(step, folder, reading=reading)
    if bytes_left is not None:
        inject.die_in_write(bytes_left)
    action(folder)


def start(action, folder: Path, *, step=0, bytes_left=None, reading=False):
    """A process that does ``action`` and dies there."""
    arguments = (action, folder, step, bytes_left, reading)
    process = forks.context().Process(target=_live_and_die, args=arguments)
    process.start()
    return process


def end(action, folder, **how):
    """The exit code of such a process: minus the signal that killed it, or 0."""
    process = start(action, folder, **how)
    process.join()
    code = process.exitcode
    process.close()
    return code
