"""A run is trained, recorded, resumed, refused and read back."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from linfdist import data, experiments, records
from linfdist.cli import main
from linfdist.experiments import runner
from linfdist.records import RecordError, RunExists, RunInProgress, environment
from linfdist.training import checkpoint, dist_net, loop
from linfdist.training.state import TrainingState

NET, MLP = "table1/mnist_net", "table1/mnist_net_mlp"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    return tmp_path


@pytest.mark.parametrize("name", [NET, MLP])
def test_a_smoke_run_learns_and_is_recorded(name):
    run = runner.run(name, scale="smoke", progress=False)
    assert run.metrics["clean_accuracy"] > 0.85
    assert run.metrics["certified_accuracy"] > 0.6
    assert ("certified_accuracy_margin" in run.metrics) == (name == NET)
    assert records.accuracies(run.certificates) == run.metrics
    assert [found.path for found in records.find_runs(name, "smoke")] == [run.path]
    assert run.environment["training_seconds"] > 0
    assert run.environment["peak_memory_mb"] > 0
    assert run.config["flops"] == run.config["parameters"]

    net = runner.load_trained(run)
    test = data.load("digits", "test")
    with torch.no_grad():
        predicted = net(data.to_pixels(test.images)).argmax(1)
    assert predicted.tolist() == run.certificates["predicted"].tolist()

    with pytest.raises(RunExists, match="a run is recorded only once"):
        runner.run(name, scale="smoke")


@pytest.fixture
def tiny(monkeypatch):
    """Every scale of every experiment becomes a fraction of a second, with a checkpoint a step."""
    smoke = experiments.get_setting(NET, "smoke")
    train = replace(smoke.train, epochs=(1, 1, 1), train_images=256)
    setting = replace(smoke, net=replace(smoke.net, hidden=(8,)), train=train, test_images=50)
    monkeypatch.setattr(experiments, "get_setting", lambda name, scale: setting)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)  # after every step
    return setting


def test_a_recorded_run_is_refused_before_anything_is_done(monkeypatch):
    records.run_dir(NET, "paper", 0).mkdir(parents=True)
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: pytest.fail("read the data"))
    with pytest.raises(RunExists, match="Choose another seed"):
        runner.run(NET, scale="paper")


def test_weights_of_another_run_are_refused(tiny):
    run = runner.run(NET, scale="smoke", progress=False)
    other = runner.run(NET, scale="smoke", seed=1, progress=False)
    assert run.weights_sha256 != other.weights_sha256
    path = records.work_dir(NET, "smoke", 1) / "weights.pt"
    with pytest.raises(RecordError, match="these are not the weights"):
        runner.load_trained(run, path)


@pytest.mark.parametrize("saves", [1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_weights(saves, tiny, folders, monkeypatch):
    save, left = checkpoint.save, [saves]

    def save_then_ctrl_c(*args):
        save(*args)
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checkpoint, "save", save_then_ctrl_c)
    told = environment.describe("cpu")
    monkeypatch.setattr(environment, "describe", lambda device: told)
    # A shell's background job starts with SIGINT ignored, and Python then leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            runner.run(NET, scale="smoke", progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert records.find_runs() == []
    resumed = runner.run(NET, scale="smoke", progress=False)

    monkeypatch.setenv("LINFDIST_RUNS", str(folders / "other runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(folders / "other work"))
    whole = runner.run(NET, scale="smoke", progress=False)
    assert resumed.weights_sha256 == whole.weights_sha256
    assert resumed.metrics == whole.metrics
    assert resumed.epochs.drop(columns="seconds").equals(whole.epochs.drop(columns="seconds"))
    assert len(whole.certificates) == 50
    assert resumed.environment.keys() == whole.environment.keys()


def stop(monkeypatch):
    """The run ends after its first checkpoint, by an exception."""
    save = checkpoint.save

    def save_and_stop(*args):
        save(*args)
        raise EOFError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_stop)
        with pytest.raises(EOFError):
            runner.run(NET, scale="smoke", progress=False)


def test_a_run_resumed_in_another_environment_says_so(tiny, monkeypatch, capsys):
    now = environment.describe("cpu")
    calls = [
        {**now, "commit": "one"},
        {**now, "commit": "two", "threads": 64},
        {**now, "commit": "two", "threads": 64},
        {**now, "commit": "three", "threads": 64, "platform": "Plan 9"},
    ]
    for call in calls[:-1]:
        monkeypatch.setattr(environment, "describe", lambda device, call=call: call)
        stop(monkeypatch)
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1
    threads = now["threads"]
    assert (
        "was written in another environment: commit: 'one' there, 'two' here; threads: "
        in warned[0]
    )
    assert f"threads: {threads} there, 64 here. The run continues" in warned[0]

    monkeypatch.setattr(environment, "describe", lambda device: calls[-1])
    run = runner.run(NET, scale="smoke", progress=False)
    assert "commit: 'two' there, 'three' here. The run" in capsys.readouterr().err
    assert run.environment["resumed_from"] == [{**call, "processes": 1} for call in calls[:2]]
    assert run.environment["platform"] == "Plan 9"


def test_a_run_that_starts_over_was_not_resumed(tiny, monkeypatch, capsys):
    told = environment.describe("cpu")
    with monkeypatch.context() as patch:
        patch.setattr(environment, "describe", lambda device: {**told, "threads": 64})
        stop(monkeypatch)
    run = runner.run(NET, scale="smoke", restart=True, progress=False)
    assert capsys.readouterr().err == ""
    assert "resumed_from" not in run.environment


def test_a_record_that_is_deleted_is_trained_again(tiny, monkeypatch):
    first = runner.run(NET, scale="smoke", progress=False)
    work = records.work_dir(NET, "smoke", 0)
    assert sorted(path.name for path in work.iterdir()) == ["lock", "weights.pt"]
    shutil.rmtree(first.path)
    trained = []
    step = TrainingState.train_step
    monkeypatch.setattr(TrainingState, "train_step", lambda run: (trained.append(run), step(run)))
    again = runner.run(NET, scale="smoke", progress=False)
    assert len(trained) == 3 * 256 / tiny.train.batch_size
    assert again.weights_sha256 == first.weights_sha256


def test_a_run_that_cannot_be_recorded_keeps_its_checkpoint(tiny, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(records, "write_run", full)
    with pytest.raises(OSError, match="no space left"):
        runner.run(NET, scale="smoke", progress=False)
    assert (records.work_dir(NET, "smoke", 0) / "checkpoint.pt").is_file()


HOLDER = """
import sys
from pathlib import Path
from linfdist import records
with records.lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_at_the_same_run_is_refused(tiny, capsys):
    work = records.work_dir(NET, "smoke", 0)
    command = [sys.executable, "-c", HOLDER, str(work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(RunInProgress, match="this run is already in progress in another proc"):
            runner.run(NET, scale="smoke", progress=False)
        assert main(["run", NET, "--scale", "smoke"]) == 2
        assert "already in progress in another process" in capsys.readouterr().err
        assert runner.run(NET, scale="smoke", seed=1, progress=False).seed == 1
        other.kill()
    assert runner.run(NET, scale="smoke", progress=False).seed == 0


FORKED = """
import os
import signal
import sys
from pathlib import Path
from linfdist import records
with records.lock(Path(sys.argv[1])):
    if os.fork() == 0:
        print("forked", flush=True)
        signal.pause()
    signal.pause()
"""


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_run(tmp_path):
    work = tmp_path / "work"
    command = [sys.executable, "-c", FORKED, str(work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as run:
        try:
            assert run.stdout.readline() == b"forked\n"
            with pytest.raises(RunInProgress), records.lock(work):
                pytest.fail("two have it")
            run.kill()
            run.wait()
            with records.lock(work):
                pass
        finally:
            os.killpg(run.pid, signal.SIGKILL)


def test_a_damaged_checkpoint_is_named_and_restart_drops_it(tiny):
    path = records.work_dir(NET, "smoke", 0) / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"nothing")
    with pytest.raises(checkpoint.CheckpointError, match=re.escape(str(path))):
        runner.run(NET, scale="smoke", progress=False)
    runner.run(NET, scale="smoke", restart=True, progress=False)


def test_the_paper_scale_on_a_cpu_warns_and_changes_nothing(tiny, capsys):
    plain = runner.run(NET, scale="reduced", device="cpu", progress=False)
    assert capsys.readouterr().err == ""
    warned = runner.run(NET, scale="paper", device="cpu", progress=False)
    message = f"{NET} at the paper's scale trains for 3 epochs of 256 images. On this CPU that"
    assert message in capsys.readouterr().err
    assert warned.weights_sha256 == plain.weights_sha256


def test_the_warning_weighs_the_time_at_each_p(monkeypatch):
    now, seen = [0.0], []
    forward = dist_net._Objective.forward

    def slow(self, images, labels, p, radius):
        seen.append(p)
        assert not self.net.training
        now[0] += len(images) * {8.0: 1.0, math.inf: 100.0}.get(p, 10.0)
        return forward(self, images, labels, p, radius)

    monkeypatch.setattr(runner.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(dist_net._Objective, "forward", slow)
    setting = experiments.get_setting(NET, "smoke")
    setting = replace(setting, train=replace(setting.train, epochs=(1, 2, 3)))
    train = data.load("digits", "train")
    net = runner.build(setting, train.info, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert runner._epochs_seconds(net, setting, train) == 1 * 1.0 + 2 * 10.0 + 3 * 100.0
    config = setting.train
    assert seen == [config.p_start, math.sqrt(config.p_start * config.p_end), math.inf]
    assert net.training and all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_initialisation_depends_on_the_seed_alone():
    setting = experiments.get_setting(NET, "smoke")
    info = data.DATASETS["digits"]
    state = torch.random.get_rng_state()
    first, again, other = (runner.build(setting, info, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [next(net.parameters()) for net in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
