"""A run can be killed anywhere and ends as if it never had been, bit for bit."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from helpers.dots import CONFIG, LOSSES, MIXTURE, NET, TEST, TRAIN, dots, fresh, same, timeless

from linfdist.baselines import BaselineConfig
from linfdist.data import split_validation
from linfdist.nn import NetConfig, mean_distances
from linfdist.optim import lp_adamw
from linfdist.training import (
    BoundTrainConfig,
    CheckpointConfig,
    LayerwiseTrainConfig,
    OutOfTime,
    fit,
    loop,
)
from linfdist.training import checkpoint as checkpoints
from linfdist.training import state as training_state
from linfdist.training.checkpoint import CheckpointError
from linfdist.training.state import TrainingState


def own_state(path):
    """Of the objective, beside the network's."""
    return torch.load(path, weights_only=True)["state"]["objective"]


def optimizer_state(path):
    return torch.load(path, weights_only=True)["state"]["optimizer"]["state"]


@LOSSES
@pytest.mark.parametrize("after", [1, 4, 7, 19])
def test_stopped_anywhere_and_resumed_is_bit_equal(tmp_path, net_config, config, after):
    whole, parts = fresh(net_config), fresh(net_config)
    settings = {"seed": 3, "test": TEST}
    expected = fit(whole, TRAIN, config, checkpoint=tmp_path / "whole", **settings)
    path = tmp_path / "parts"
    first = fit(parts, TRAIN, config, checkpoint=path, stop_after_steps=after, **settings)
    assert len(first) == after // 4
    again = fresh(net_config)
    rows = fit(again, TRAIN, config, checkpoint=path, **settings)
    assert same(whole, again) and timeless(rows) == timeless(expected)
    states = optimizer_state(tmp_path / "whole"), optimizer_state(path)
    assert states[0].keys() == states[1].keys()
    for key in states[0]:
        for name in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(states[0][key][name], states[1][key][name])
    assert own_state(tmp_path / "whole") == own_state(path)


MIXED = replace(CONFIG, loss=MIXTURE)


@pytest.mark.quick
def test_the_scale_and_its_moments_are_in_the_checkpoint(tmp_path):
    path = tmp_path / "c"
    given = (TRAIN, MIXED, 0, None, "cpu")
    run = TrainingState(fresh(), *given, checkpoint=CheckpointConfig(path))
    for _ in range(3):  # within the first epoch
        run.train_step()
    run.save()
    again = TrainingState(fresh(), *given, checkpoint=CheckpointConfig(path))
    again.load()
    scale, loaded = run.recipe.objective.scale, again.recipe.objective.scale
    assert scale.item() == loaded.item() != MIXTURE.scale
    moments, theirs = run.optimizer.state[scale], again.optimizer.state[loaded]
    assert all(torch.equal(moments[name], theirs[name]) for name in moments)
    assert moments["step"] == 3 and moments["exp_avg_sq"] > 0
    for one in (run, again):
        one.train_step()
    assert scale.item() == loaded.item() and same(run.net, again.net)
    assert "scale" not in torch.load(path, weights_only=True)["state"]["net"]


def test_a_checkpoint_that_lacks_the_scale_is_refused(tmp_path):
    path = tmp_path / "c"
    fit(fresh(), TRAIN, MIXED, seed=0, checkpoint=path, stop_after_steps=7)
    content = torch.load(path, weights_only=True)
    for objective in ({}, {"scale": torch.tensor(2.0), "other": torch.tensor(1.0)}):
        state = content["state"] | {"objective": objective}
        checkpoints.save(path, json.loads(content["fingerprint"]), state)
        with pytest.raises(CheckpointError, match=r"(?s)a whole checkpoint.*(scale|other)"):
            fit(fresh(), TRAIN, MIXED, seed=0, checkpoint=path)


def test_a_scale_that_is_not_finite_is_named_and_not_saved(tmp_path, monkeypatch):
    file = CheckpointConfig(tmp_path / "c")
    run = TrainingState(fresh(), TRAIN, MIXED, 0, None, "cpu", checkpoint=file)
    run.train_step()
    with torch.no_grad():
        run.recipe.objective.scale.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="scale is not after step 0"):
        run.save()
    assert not (tmp_path / "c").exists()


def test_a_run_that_watched_the_test_set_does_not_go_on_watching_validation_images(tmp_path):
    rest, validation = split_validation(dots(80))
    path = tmp_path / "c"
    fit(fresh(), rest, CONFIG, seed=0, test=TEST, checkpoint=path, stop_after_steps=6)
    with pytest.raises(CheckpointError, match="watched: None there, 'validation' here"):
        fit(fresh(), rest, CONFIG, seed=0, test=validation, checkpoint=path)


@pytest.mark.parametrize("smoothing", ["lse", "matched_lse", "lp_then_lse"])
@pytest.mark.parametrize("after", [1, 7, 9, 15, 18])
def test_smoothed_training_resumed_is_bit_equal(tmp_path, smoothing, after):
    config = replace(
        CONFIG,
        smoothing=smoothing,
        p_start=2.0,
        p_end=30.0,
        p_rise=8.0 if smoothing == "lp_then_lse" else None,
        relaxation=3.0,
    )
    whole, path = fresh(), tmp_path / "parts"
    expected = fit(whole, TRAIN, config, seed=3, test=TEST)
    fit(fresh(), TRAIN, config, seed=3, test=TEST, checkpoint=path, stop_after_steps=after)
    again = fresh()
    rows = fit(again, TRAIN, config, seed=3, test=TEST, checkpoint=path)
    assert same(whole, again) and timeless(rows) == timeless(expected)
    assert mean_distances(whole) == mean_distances(again)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["backward", "optimizer", "save", "evaluation"])
def test_killed_inside_a_step_and_resumed_is_bit_equal(tmp_path, monkeypatch, where):
    """Dies half-way through something, many times, with whatever was saved before."""
    whole = fresh()
    expected = fit(whole, TRAIN, CONFIG, seed=0, test=TEST)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # after every step
    owner, name = {
        "backward": (torch.Tensor, "backward"),
        "optimizer": (lp_adamw.LpAdamW, "step"),
        "save": (checkpoints.os, "fsync"),
        "evaluation": (training_state, "clean_and_certified"),
    }[where]
    real = getattr(owner, name)
    calls = {"left": 0}

    def dying(*args, **kwargs):
        calls["left"] -= 1
        result = real(*args, **kwargs)  # the deed is done, but nobody learns of it
        if calls["left"] == 0:
            raise Killed
        return result

    deaths = 0
    monkeypatch.setattr(owner, name, dying)
    while True:
        calls["left"] = 3 if where != "evaluation" else 2
        net = fresh()
        try:
            rows = fit(net, TRAIN, CONFIG, seed=0, test=TEST, checkpoint=tmp_path / "c")
        except Killed:
            deaths += 1
            continue
        break
    assert deaths >= 2
    assert same(net, whole) and timeless(rows) == timeless(expected)


LONG = replace(CONFIG, epochs=(20, 40, 10))


def run_and_wait_for_the_end(path):
    """What the process that is killed runs."""
    loop.CHECKPOINT_SECONDS = 0.0
    torch.set_num_threads(1)
    fit(fresh(), TRAIN, LONG, seed=0, checkpoint=Path(path))


def test_a_process_that_is_really_killed_is_resumed_bit_equal(tmp_path):
    path = tmp_path / "checkpoint"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    program = f"import test_resume; test_resume.run_and_wait_for_the_end({str(path)!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parent, env=environment
    )
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < torch.load(path, weights_only=True)["state"]["step"] < 280

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole, resumed = fresh(), fresh()
        expected = fit(whole, TRAIN, LONG, seed=0)
        rows = fit(resumed, TRAIN, LONG, seed=0, checkpoint=path)
    finally:
        torch.set_num_threads(threads)
    assert same(whole, resumed) and timeless(rows) == timeless(expected)


class Clock:
    """A second passes whenever the time is asked for."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 1.0
        return self.now


@LOSSES
def test_a_run_in_parts_of_so_many_seconds_is_bit_equal(tmp_path, monkeypatch, net_config, config):
    whole, parts = fresh(net_config), fresh(net_config)
    expected = fit(whole, TRAIN, config, seed=0, test=TEST)
    monkeypatch.setattr(loop, "time", Clock())
    calls = []
    while True:
        parts = fresh(net_config)
        try:
            settings = {"checkpoint": tmp_path / "c", "seconds": 10}
            rows = fit(parts, TRAIN, config, seed=0, test=TEST, progress=False, **settings)
            break
        except OutOfTime as error:
            calls.append(str(error))
            assert not parts.training
    assert len(calls) >= 3
    message = (
        r"fit: out of time after 10 seconds: [01]\.\d\d of 5 epochs are done, [34]\.\d\d are left"
    )
    assert re.fullmatch(message + r"\. Repeat the call to continue from the checkpoint\.", calls[0])
    assert same(whole, parts) and timeless(rows) == timeless(expected)


def test_the_last_step_is_never_out_of_time_and_each_call_makes_one(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "time", Clock())
    for step in range(1, 20):
        with pytest.raises(OutOfTime):
            fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c", seconds=0.5)
        assert torch.load(tmp_path / "c", weights_only=True)["state"]["step"] == step
    rows = fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c", seconds=0.5)
    assert len(rows) == 5


def test_seconds_must_be_positive_and_come_with_a_checkpoint(tmp_path):
    for seconds in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"seconds must be above 0; got {seconds}"):
            fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c", seconds=seconds)
    with pytest.raises(ValueError, match=r"seconds=5 must come with a checkpoint.*got none"):
        fit(fresh(), TRAIN, CONFIG, seed=0, seconds=5)


@pytest.mark.quick
def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    net = fresh()
    expected = fit(net, TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c")
    monkeypatch.setattr(TrainingState, "train_step", None)
    again = fresh()
    assert fit(again, TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "c") == expected
    assert same(net, again)


@pytest.mark.quick
def test_checkpoints_come_at_the_end_and_with_time(tmp_path, monkeypatch):
    steps = []
    real = checkpoints.save

    def save(path, fingerprint, state):
        steps.append(state["step"])
        real(path, fingerprint, state)

    monkeypatch.setattr(checkpoints, "save", save)
    fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "a")
    assert steps == [20]
    steps.clear()
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=tmp_path / "b")
    assert steps == list(range(1, 21))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"experiment": "y"}, "experiment: 'x' there, 'y' here"),
        ({"config": replace(CONFIG, lr=0.03)}, "train.lr: 0.02 there, 0.03 here"),
        ({"train": TRAIN.take(40)}, "data.images: 56 there, 40 here"),
        ({"net": NetConfig(kind="net", hidden=(12, 13))}, "net.hidden"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(tmp_path, change, message):
    base = {"net": NET, "train": TRAIN, "config": CONFIG, "seed": 0, "experiment": "x"}

    def start(net, train, config, experiment, **rest):
        file = CheckpointConfig(tmp_path / "c", experiment=experiment)
        return fit(fresh(net), train, config, checkpoint=file, stop_after_steps=1, **rest)

    start(**base)
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        start(**{**base, **change})
    assert (tmp_path / "c").read_bytes() == before


def swapped(optimizer):
    """Moments under each other's number."""
    moments = optimizer["state"]
    moments[0], moments[1] = moments[1], moments[0]


def permuted(optimizer):
    group = optimizer["param_groups"][0]["params"]
    group[0], group[1] = group[1], group[0]


def narrower(optimizer):
    for moments in optimizer["state"].values():
        for name in moments.keys() - {"step"}:
            moments[name] = moments[name].flatten()[:1]


def without_one(optimizer):
    del optimizer["state"][0][next(name for name in optimizer["state"][0] if name != "step")]


def one_more(optimizer):
    optimizer["state"][0]["max_exp_avg_sq"] = torch.zeros(1)


def without_groups(optimizer):
    del optimizer["param_groups"]


def of_another_parameter(optimizer):
    optimizer["state"][99] = optimizer["state"][0]


METHODS = {  # LpAdamW, torch's Adam, torch's SGD
    "ours": (NET, CONFIG),
    "ibp": (
        BaselineConfig(kind="dm_medium", width=1 / 16),
        BoundTrainConfig(
            epochs=(1, 1, 1), bound="ibp", eps_train=Fraction(1, 20), batch_size=20, lr_drops=(2,)
        ),
    ),
    "colt": (
        BaselineConfig(kind="colt", width=1 / 16),
        LayerwiseTrainConfig(
            epochs=(2, 2, 2),
            mix_epochs=1,
            eps_train=Fraction(1, 20),
            lr=0.1,
            lr_epochs=1,
            batch_size=20,
            attack_steps=2,
        ),
    ),
}


@pytest.mark.parametrize(
    "change",
    [swapped, permuted, narrower, without_one, one_more, without_groups, of_another_parameter],
)
@pytest.mark.parametrize("method", METHODS)
def test_moments_of_other_parameters_are_refused(tmp_path, method, change):
    """With a right checksum: only the optimizer's state is not that of the network."""
    net_config, config = METHODS[method]
    file = CheckpointConfig(path := tmp_path / "c", experiment="x")
    run = TrainingState(fresh(net_config), TRAIN, config, 3, None, "cpu", checkpoint=file)
    run.train_step()
    run.save()
    state = checkpoints.load(path, run.fingerprint, "cpu")
    change(state["optimizer"])
    checkpoints.save(path, run.fingerprint, state)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"must be a whole checkpoint; reading it failed"):
        run.load()
    assert path.read_bytes() == before


def test_a_corrupt_checkpoint_is_named_and_restart_throws_it_away(tmp_path):
    path = tmp_path / "c"
    path.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
        fit(fresh(), TRAIN, CONFIG, seed=0, checkpoint=path)
    net, expected = fresh(), fresh()
    fit(net, TRAIN, CONFIG, seed=0, checkpoint=CheckpointConfig(path, restart=True))
    fit(expected, TRAIN, CONFIG, seed=0)
    assert same(net, expected)


def test_environments_are_kept_and_change_nothing(tmp_path):
    path, settings = tmp_path / "c", {"seed": 0, "stop_after_steps": 6}
    one = CheckpointConfig(path, environments=[{"threads": 1}])
    fit(fresh(), TRAIN, CONFIG, checkpoint=one, **settings)
    assert checkpoints.environments(path) == [{"threads": 1}]
    calls = [{"threads": 1}, {"threads": 2}]
    net, expected = fresh(), fresh()
    fit(net, TRAIN, CONFIG, seed=0, checkpoint=CheckpointConfig(path, environments=calls))
    assert checkpoints.environments(path) == calls
    fit(expected, TRAIN, CONFIG, seed=0)
    assert same(net, expected)
