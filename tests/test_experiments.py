"""The settings equal the paper's; a run is recorded, resumed, refused and read back."""

import math
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pandas as pd
import pytest
import torch

from linfdist import checkpoint, data, environment, experiments, records, train_run, training
from linfdist.__main__ import main
from linfdist.data import Augmentation
from linfdist.experiments import UnknownName, runner, smoothing, table1, table2
from linfdist.records import RecordError, RunExists, RunInProgress
from linfdist.robust import HingeLoss, IBPLoss

ROWS = (
    "mnist_net",
    "mnist_net_mlp",
    "fashion_mnist_net",
    "fashion_mnist_net_mlp",
    "cifar10_net",
    "cifar10_net_mlp",
)
LSE_ROWS = tuple(f"{row}_lse" for row in ROWS)
NET, MLP = "table1/mnist_net", "table1/mnist_net_mlp"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("LINFDIST_WORK", str(tmp_path / "work"))
    return tmp_path


def test_every_row_of_our_own_is_there():
    names = {f"table1/{row}" for row in LSE_ROWS} | set(PAPER)
    names |= {experiment.name for experiment in smoothing.EXPERIMENTS}
    assert set(experiments.EXPERIMENTS) == names
    assert len(smoothing.EXPERIMENTS) == len({e.title for e in smoothing.EXPERIMENTS}) * 2
    assert all(set(e.scales) == set(experiments.SCALES) for e in experiments.EXPERIMENTS.values())


# Table 6 and Sec. 7.1, typed from the paper a second time: the loss, the epochs, the augmentation.
PAPER = {
    "table1/mnist_net": (HingeLoss(threshold=Fraction("0.9")), (50, 300, 50), (1, False, None)),
    "table1/mnist_net_mlp": (
        IBPLoss(eps_train=Fraction("0.35"), kappa=0.5),
        (50, 300, 50),
        (1, False, None),
    ),
    "table1/fashion_mnist_net": (
        HingeLoss(threshold=Fraction("0.45")),
        (50, 300, 50),
        (1, False, None),
    ),
    "table1/fashion_mnist_net_mlp": (
        IBPLoss(eps_train=Fraction("0.11"), kappa=0.5),
        (50, 300, 50),
        (1, False, None),
    ),
    "table1/cifar10_net": (
        HingeLoss(threshold=Fraction(80, 255)),
        (100, 650, 50),
        (4, True, None),
    ),
    "table1/cifar10_net_mlp": (
        IBPLoss(eps_train=Fraction("8.8") / 255, kappa=0),
        (100, 650, 50),
        (4, True, None),
    ),
    "table2/tinyimagenet_net_mlp": (
        IBPLoss(eps_train=Fraction("0.005"), kappa=0),
        (100, 350, 50),
        (0, True, 56),
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_scale_is_the_papers(name):
    loss, epochs, augmentation = PAPER[name]
    setting = experiments.get_scale(name, "paper")
    train = setting.train
    assert train.loss == loss
    assert train.epochs == epochs
    assert train.augmentation == Augmentation(*augmentation)
    assert train.lr == (0.04 if "tinyimagenet" in name else 0.02)
    assert (train.batch_size, train.betas, train.adam_eps) == (512, (0.9, 0.99), 1e-10)
    assert (train.weight_decay, train.decay) == (0.005, "lp")
    assert (train.p_start, train.p_end) == (8, 1000)
    assert train.train_images is None
    assert setting.test_images is None
    deep = 4 if "mnist" in name else 5
    assert setting.net.hidden == (5120,) * deep
    assert setting.net.mlp_hidden == (512 if name.endswith("mlp") else None)
    assert setting.net.identity_value == -10
    assert setting.eps == data.DATASETS[setting.dataset].eps


def test_the_radii_are_the_papers():
    radii = {name: experiments.get(name).eps for name in PAPER}
    assert radii == {
        **dict.fromkeys(("table1/mnist_net", "table1/mnist_net_mlp"), Fraction("0.3")),
        **dict.fromkeys(
            ("table1/fashion_mnist_net", "table1/fashion_mnist_net_mlp"), Fraction("0.1")
        ),
        **dict.fromkeys(("table1/cifar10_net", "table1/cifar10_net_mlp"), Fraction(8, 255)),
        "table2/tinyimagenet_net_mlp": Fraction(1, 255),
    }


@pytest.mark.parametrize("row", ROWS)
def test_rows_with_logsumexp_differ_from_the_papers_in_smoothing(row):
    ours, paper = experiments.get(f"table1/{row}_lse"), experiments.get(f"table1/{row}")
    assert ours.title == f"{paper.title}, LogSumExp"
    assert (ours.paper, ours.dataset, ours.eps) == (paper.paper, paper.dataset, paper.eps)
    lp = {"smoothing": "lp", "p_rise": None, "p_end": 1000.0, "relaxation": 1.0}
    for scale in ("smoke", "paper"):
        setting, of_paper = ours.scales[scale], paper.scales[scale]
        back = replace(setting.train, **lp, matmul_precision="highest")
        assert replace(setting, train=back) == of_paper != setting
    reduced, of_paper = ours.scales["reduced"], paper.scales["reduced"]
    assert min(reduced.net.hidden) >= 1024 > max(of_paper.net.hidden)
    assert sum(reduced.train.epochs) > sum(of_paper.train.epochs)


@pytest.mark.parametrize("row", smoothing.ROWS)
def test_the_study_changes_what_its_titles_say(row):
    named = {
        variant.name: experiments.get(f"smoothing/{row}_{variant.name}")
        for variant in smoothing.VARIANTS
    }
    table = experiments.get(f"table1/{row}")
    assert named["lp"].scales["paper"] == table.scales["paper"]
    base, changed = (named[name].scales["reduced"] for name in ("then", "then_long_end"))
    e1, e2, e3 = base.train.epochs
    assert changed == replace(base, train=replace(base.train, epochs=(e1, e2, 2 * e3)))
    assert {e.scales["reduced"].train.train_images for e in named.values()} == {10_240}
    starts = {name: e.scales["reduced"].net.identity_value for name, e in named.items()}
    assert {name for name, value in starts.items() if value != -4} == {
        "lp_from_minus_10",
        "then_from_minus_10",
    }
    assert len({repr(e.scales["reduced"]) for e in named.values()}) == len(named)


@pytest.mark.parametrize("module", [table1, table2])
def test_papers_numbers_are_in_order(module):
    for row in (*module.EXPERIMENTS, *module.QUOTED):
        paper = row.paper
        between = paper.certified_accuracy if paper.pgd_accuracy is None else paper.pgd_accuracy
        assert 0 < paper.certified_accuracy <= between <= paper.clean_accuracy < 1


def test_every_other_method_of_the_paper_is_quoted():
    counts = pd.Series([row.dataset for row in table1.QUOTED]).value_counts()
    assert counts.to_dict() == {"mnist": 4, "fashion_mnist": 3, "cifar10": 6}
    assert len(table2.QUOTED) == 4
    assert all(row.eps == data.DATASETS[row.dataset].eps for row in table1.QUOTED)


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_the_reduced_scale_differs_in_size_alone(name):
    paper, reduced = (experiments.get_scale(name, scale) for scale in ("paper", "reduced"))
    assert (reduced.dataset, reduced.eps) == (paper.dataset, paper.eps)
    assert reduced.net.kind == paper.net.kind
    assert max(reduced.net.hidden) < 5120
    assert sum(reduced.train.epochs) < sum(paper.train.epochs)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"experiment 'table1/mnist'.* Did you mean 'table1/mn"):
        experiments.get("table1/mnist")
    with pytest.raises(UnknownName, match=r"scale 'papre'\. Did you mean 'paper'\? Known: smoke"):
        experiments.get_scale(NET, "papre")
    with pytest.raises(UnknownName, match=r"row of Table 1 'mnist_nte'\. Did you mean 'mnist_net'"):
        experiments.parse_rows("mnist_net,mnist_nte")


def test_parse_rows():
    assert experiments.parse_rows("mnist_net, table1/cifar10_net,") == [NET, "table1/cifar10_net"]
    assert experiments.parse_rows(["cifar10_net"]) == ["table1/cifar10_net"]
    every = [f"table1/{row}" for row in (*ROWS, *LSE_ROWS)]
    assert experiments.parse_rows("all") == every == experiments.parse_rows("")
    assert experiments.parse_rows("all", table=2) == ["table2/tinyimagenet_net_mlp"]


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

    with pytest.raises(RunExists, match="a run is recorded once"):
        runner.run(name, scale="smoke")


@pytest.fixture
def tiny(monkeypatch):
    """Every scale of every experiment becomes a fraction of a second, with a checkpoint a step."""
    smoke = experiments.get_scale(NET, "smoke")
    train = replace(smoke.train, epochs=(1, 1, 1), train_images=256)
    setting = replace(smoke, net=replace(smoke.net, hidden=(8,)), train=train, test_images=50)
    monkeypatch.setattr(experiments, "get_scale", lambda name, scale: setting)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)  # after every step
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


def test_a_run_resumed_in_other_surroundings_says_so(tiny, monkeypatch, capsys):
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
    assert "is from other surroundings: commit: 'one' there, 'two' here; threads: " in warned[0]
    assert f"threads: {threads} there, 64 here. The run goes on" in warned[0]

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
    step = train_run.Run.train_step
    monkeypatch.setattr(train_run.Run, "train_step", lambda run: (trained.append(run), step(run)))
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

    class Slow(torch.nn.Module):
        input_shape = (1, 8, 8)

        def forward(self, images, p):
            seen.append(p)
            assert not self.training
            now[0] += len(images) * {8.0: 1.0, math.inf: 100.0}.get(p, 10.0)
            return images.clone().requires_grad_()

    monkeypatch.setattr(runner.time, "perf_counter", lambda: now[0])
    setting = experiments.get_scale(NET, "smoke")
    setting = replace(setting, train=replace(setting.train, epochs=(1, 2, 3)))
    net = Slow()
    seconds = runner._epochs_seconds(net, setting, data.load("digits", "train"))
    assert seconds == 1 * 1.0 + 2 * 10.0 + 3 * 100.0
    config = setting.train
    assert seen == [config.p_start, math.sqrt(config.p_start * config.p_end), math.inf]
    assert net.training


def test_the_initialisation_depends_on_the_seed_alone():
    setting = experiments.get_scale(NET, "smoke")
    info = data.DATASETS["digits"]
    state = torch.random.get_rng_state()
    first, again, other = (runner.build(setting, info, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [next(net.parameters()) for net in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
