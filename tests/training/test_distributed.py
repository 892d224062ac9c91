"""Two processes at one run end as one does.

``torchrun tests/training/test_distributed.py FOLDER TASK`` is what the processes run.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from helpers.dots import CONFIG, GATED, IBP, MIXTURE, MLP, NET, TEST, dots, fresh, timeless

from linfdist import records
from linfdist.baselines import BaselineConfig, build_baseline
from linfdist.evaluation import accuracy
from linfdist.nn import MeanShift, NetConfig
from linfdist.system import distributed
from linfdist.system.devices import DeviceError
from linfdist.system.distributed import join, share
from linfdist.training import BoundTrainConfig, LayerwiseTrainConfig, OutOfTime, fit, loop
from linfdist.training.checkpoint import CheckpointError
from linfdist.training.state import TrainingState

TRAIN = dots(33)  # batches of 16, 16 and 1: the last has nothing for one of two processes
SHORT = replace(CONFIG, epochs=(2, 1, 1))
CONV = NetConfig(kind="conv_net_mlp", hidden=(12,), mlp_hidden=6, channels=((3, 1), (4, 2)))
CASES = {
    f"{name} from p={p}": (net, replace(SHORT, loss=loss, p_start=p))
    for p in (8.0, float("inf"))
    for name, net, loss in (
        ("net", NET, CONFIG.loss),
        ("net with the mixture", NET, MIXTURE),
        ("mlp, gated", MLP, GATED),
        ("mlp", MLP, IBP),
        ("mlp without clean loss", MLP, replace(IBP, kappa=0.0)),
        ("mlp without worst case", MLP, replace(IBP, kappa=1.0)),
        ("conv mlp", CONV, IBP),
    )
}
CASES |= {
    f"{smoothing}, {name}": (net, replace(SHORT, loss=loss, smoothing=smoothing, p_end=60.0))
    for smoothing in ("lse", "matched_lse")
    for name, net, loss in (("net", NET, CONFIG.loss), ("conv mlp", CONV, IBP))
}
COLT = LayerwiseTrainConfig(
    epochs=(2, 1, 1), mix_epochs=1, eps_train=Fraction(1, 20), batch_size=16, attack_steps=2
)
BOUND = BoundTrainConfig(
    epochs=(1, 2, 1), bound="ibp", eps_train=Fraction(1, 10), batch_size=16, lr=1e-3
)
CASES |= {
    f"bounds, {kind}": (BaselineConfig(kind=kind, width=1 / 8), config)
    for kind, config in (
        ("dm_medium", BOUND),
        ("pvt", replace(BOUND, bound="pvt")),
        ("colt", COLT),
    )
}
RUN = ["table1/mnist_net", "--scale", "smoke"]


def untrained(net_config):
    """In float64."""
    if not isinstance(net_config, BaselineConfig):
        return fresh(net_config).double()
    torch.manual_seed(0)
    given = {"num_classes": 3, "mean": TRAIN.info.mean, "std": TRAIN.info.std}
    return build_baseline(net_config, input_shape=TRAIN.info.input_shape, **given).double()


def train(case, **settings):
    """In float64: sums in another order differ by rounding, which Adam's division makes larger."""
    net_config, config = CASES[case]
    net = untrained(net_config)
    return net, fit(net, TRAIN, config, seed=0, test=TEST, progress=False, **settings)


# What the processes do.


def be_killed(folder):
    """Process 1 is killed in the fifth step."""
    step = TrainingState.train_step

    def dying(run):
        if run.step == 4 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(run)

    TrainingState.train_step = dying
    loop.CHECKPOINT_SECONDS = 0.0
    train("net from p=8.0", checkpoint=folder / "killed")


def fail(folder):
    """Process 1 alone finds something wrong; process 0 waits for it in a step."""
    if distributed.rank() == 1:
        raise ValueError("this is wrong")
    train("net from p=8.0")


def work(folder):
    rank = distributed.rank()
    results = {case: train(case) for case in CASES}
    results["killed"] = train("net from p=8.0", checkpoint=folder / "killed")
    mixed = "net with the mixture from p=8.0"
    train(mixed, checkpoint=folder / "mixed", stop_after_steps=5)
    results["mixture resumed"] = train(mixed, checkpoint=folder / "mixed")
    results["not synchronized"] = train("net from p=8.0", sync_mean_shift=False)
    results["out of time"] = out_of_time(folder / "in parts")

    net, _ = results["mlp from p=8.0"]
    assert not any(module.sync for module in net.modules() if isinstance(module, MeanShift))
    assert accuracy(net, TEST, together=True) == accuracy(net, TEST)
    alone = TEST.take(1)
    assert accuracy(net, alone, together=True) == accuracy(net, alone)

    with pytest.raises(CheckpointError, match=rf"same checkpoint at .*own{rank}.* steps \[5, 0\]"):
        train("net from p=8.0", checkpoint=folder / f"own{rank}", stop_after_steps=5)
        train("net from p=8.0", checkpoint=folder / f"own{rank}")

    x = torch.tensor([rank + 1.0], requires_grad=True)
    (distributed.total(x) * (rank + 2.0)).backward()
    assert distributed.total(x).item() == 3 and x.grad.item() == 5
    assert distributed.all_gather_float(rank + 0.5) == [0.5, 1.5]
    with join("cpu") as device:  # in the group that is there
        assert device == torch.device("cpu") and distributed.size() == 2
    assert distributed.size() == 2
    saved = {name: (net.state_dict(), timeless(rows)) for name, (net, rows) in results.items()}
    torch.save(saved, folder / f"results{rank}")


def out_of_time(path):
    """Time is over for process 1 alone, after its third step."""
    with pytest.MonkeyPatch.context() as patch:
        if distributed.rank() == 1:
            now = iter([0.0] * 9 + [100.0] * 100)
            patch.setattr(loop, "time", type("Clock", (), {"monotonic": lambda: next(now)}))
        with pytest.raises(OutOfTime, match="after 50 seconds"):
            train("net from p=8.0", checkpoint=path, seconds=50)
    assert 0 < torch.load(path, weights_only=True)["state"]["step"] < 6
    return train("net from p=8.0", checkpoint=path, seconds=1000)


# What pytest does.


def torchrun(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, arguments)]
    tests = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": tests}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes have left what they ended with."""
    folder = tmp_path_factory.mktemp("distributed")
    killed = torchrun(__file__, folder, "be_killed")
    assert killed.returncode != 0 and "Signal 9 (SIGKILL)" in killed.stderr, killed.stderr
    assert torch.load(folder / "killed", weights_only=True)["state"]["step"] == 4
    worked = torchrun(__file__, folder, "work")
    assert worked.returncode == 0, worked.stderr
    return folder


@pytest.fixture(scope="module")
def results(folder):
    """What each of the two processes ended with."""
    return [torch.load(folder / f"results{rank}", weights_only=True) for rank in range(2)]


CONSTANTS = (".mean", ".divisor")  # of the normalisation, which no training moves


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_as_one(results, case):
    net, rows = train(case)
    state, found = results[0][case]
    torch.testing.assert_close(state, dict(net.state_dict()), rtol=1e-6, atol=1e-6)
    for name in ("train_loss", "train_accuracy", "test_accuracy"):
        expected = [row[name] for row in rows]
        assert [row[name] for row in found] == pytest.approx(expected, rel=1e-6)
    moved = untrained(CASES[case][0]).state_dict()
    for name, value in state.items():
        assert torch.equal(moved[name], value) == name.endswith(CONSTANTS), name


def test_both_processes_hold_the_same_bits(results):
    first, second = results
    assert first.keys() == second.keys()
    for case in CASES:
        assert first[case][1] == second[case][1]
        assert first[case][0].keys() == second[case][0].keys()
        for name, value in first[case][0].items():
            assert torch.equal(value, second[case][0][name]), (case, name)


@pytest.mark.parametrize("name", ["killed", "out of time"])
def test_two_processes_resumed_are_bit_equal(results, name):
    whole = results[0]["net from p=8.0"]
    for state, rows in (result[name] for result in results):
        assert rows == whole[1]
        assert all(torch.equal(value, whole[0][key]) for key, value in state.items())


def test_the_scale_of_two_processes_is_saved_and_is_that_of_one(results, folder, tmp_path):
    whole = results[0]["net with the mixture from p=8.0"]
    state, rows = results[1]["mixture resumed"]
    assert rows == whole[1]
    assert all(torch.equal(value, whole[0][key]) for key, value in state.items())
    train("net with the mixture from p=8.0", checkpoint=tmp_path / "one")
    (expected,) = own_state(tmp_path / "one")
    (found,) = own_state(folder / "mixed")
    assert found == pytest.approx(expected, rel=1e-6) and found != MIXTURE.scale


def own_state(path):
    """The parameters of the objective itself, at the end of a run."""
    content = torch.load(path, weights_only=True)["state"]["objective"]
    return [value.item() for value in content.values()]


def test_without_synchronization_weights_are_equal_and_others(results):
    """Running means too: the last batch is a single image, which moves none."""
    synchronized = results[0]["net from p=8.0"][0]
    first, second = (result["not synchronized"][0] for result in results)
    for name, value in first.items():
        assert torch.equal(value, synchronized[name]) == name.endswith(CONSTANTS), name
        assert torch.equal(value, second[name])


def test_an_error_of_one_process_ends_both_with_its_message_alone(tmp_path):
    failed = torchrun(__file__, tmp_path, "fail")
    assert failed.returncode != 0
    assert failed.stderr.count("[rank1]: ValueError: this is wrong") == 1
    assert "[rank0]" not in failed.stderr


def test_a_row_of_a_table_in_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    stopped = torchrun("-m", "linfdist", "run", *RUN, "--seconds", "1e-3")
    assert stopped.returncode == 1 and stopped.stdout == ""
    again = "torchrun --nproc-per-node 2 -m linfdist run table1/mnist_net --scale smoke --seed 0"
    message = (
        "0.04 of 14 epochs are done, 13.96 are left. Repeat the call to continue from the "
        "checkpoint."
    )
    assert stopped.stderr.count(f"{message}\nTo continue: {again} --seconds 0.001\n") == 1
    assert stopped.stderr.count("out of time") == 1

    ended = torchrun("-m", "linfdist", "run", *RUN)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Recorded in") == 1 and ended.stdout.count("clean_accuracy") == 1
    assert [line[:8] for line in ended.stderr.splitlines() if line.startswith("epoch")] == [
        f"epoch {epoch}/"[:8] for epoch in range(1, 15)
    ]
    (run,) = records.find_runs()
    assert run.environment["processes"] == 2 and "resumed_from" not in run.environment
    assert run.metrics["clean_accuracy"] > 0.85 and len(run.epochs) == 14
    assert json.loads((run.path / "environment.json").read_text()) == run.environment


def test_shares_are_all_of_it_and_as_even_as_can_be(monkeypatch):
    for number in range(9):
        for processes in range(1, 6):
            monkeypatch.setattr(distributed, "size", lambda processes=processes: processes)
            parts = []
            for rank in range(processes):
                monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
                parts.append(range(number)[share(number)])
            assert [item for part in parts for item in part] == list(range(number))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_single_process_needs_no_group(monkeypatch):
    with join("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.size(), share(5)) == (0, 1, slice(0, 5))
        x = torch.ones(2)
        assert distributed.total(x) is x and distributed.all_gather_float(2.0) == [2.0]
    assert distributed.launcher() == "python"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with join("cpu"):
        assert distributed.size() == 1
    assert distributed.launcher() == "torchrun --nproc-per-node 1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:1", "device 'cuda:1' is one GPU, but there are 3 processes. Use cuda"),
        ("cuda", "--nproc-per-node must be at most the 2 GPUs here; got 3"),
        (None, "--nproc-per-node must be at most the 2 GPUs here; got 3"),
    ],
)
def test_each_process_needs_a_gpu_of_its_own(monkeypatch, name, message):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=message), join(name):
        pass


if __name__ == "__main__":
    warnings.simplefilter("error")
    with join("cpu"):
        {"be_killed": be_killed, "fail": fail, "work": work}[sys.argv[2]](Path(sys.argv[1]))
