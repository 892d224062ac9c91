"""Table 4: what is timed, what an epoch is made of, the record, and the table."""

import json
import math
from dataclasses import replace

import pytest
import torch

from linfdist import experiments, report
from linfdist.bench import epochs, recorded
from linfdist.bench.epochs_file import EpochTimes, epoch_seconds
from linfdist.cli import main
from linfdist.experiments import table4

CPU = torch.device("cpu")
# Typed from the paper a second time.
SECONDS = {"ibp": 17.4, "crown_ibp": 112.4, "loss_fusion": 43.3, "net": 19.7, "net_mlp": 19.7}
IBP, CROWN = (f"table1/cifar10_{name}" for name in ("ibp", "crown_ibp"))


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    return tmp_path


def row(experiment, phase, length, passes, update, batch=32, recipe=512):
    return {
        "experiment": experiment,
        "phase": phase,
        "epochs": length,
        "batch": batch,
        "recipe_batch": recipe,
        "flops": 1000,
        "forward_backward_seconds": passes,
        "optimizer_seconds": update,
    }


def times(path, rows, **given):
    environment = {"device": "a CPU", "threads": 1, "backend": "native (avx2)"}
    content = {"environment": environment, "code_sha256": "c", "scale": "paper", "batch": 32}
    return EpochTimes(path=path, rows=rows, **content | given)


def test_the_papers_seconds_and_what_they_are_of():
    found = {row.experiment.name: row.paper_seconds for row in table4.TABLE.rows}
    printed = {f"table1/cifar10_{name}": seconds for name, seconds in SECONDS.items()}
    assert {name: seconds for name, seconds in found.items() if seconds is not None} == printed
    assert [name for name, seconds in found.items() if seconds is None] == [
        "table1/cifar10_net_lse",
        "table1/cifar10_net_mlp_lse",
    ]
    assert table4.TABLE.reference.experiment.name == IBP


def test_moments_are_the_middles_of_the_phases_that_there_are():
    assert epochs.moments((100, 650, 50)) == {"warm-up": 50, "ramp": 425, "end": 775}
    assert epochs.moments((0, 4, 2)) == {"ramp": 2, "end": 5}


@pytest.mark.parametrize("name", ["net", "net_lse", "crown_ibp"])
def test_a_round_has_a_row_for_each_phase(name):
    experiment = experiments.get(f"table1/cifar10_{name}")
    rows = epochs.measure(experiment, "smoke", batch=16, device=CPU)
    assert [row["phase"] for row in rows] == ["warm-up", "ramp", "end"]
    paper = experiment.scales["paper"].train.epochs
    assert tuple(row["epochs"] for row in rows) == paper
    for row in rows:
        assert (row["batch"], row["recipe_batch"]) == (16, 64)
        assert row["flops"] > 1000 and "peak_memory_mb" not in row
        assert all(len(row[part]) == 1 and row[part][0] > 0 for part in epochs.STEP_PARTS)
    p = [row["p"] for row in rows]
    if name == "net":
        assert p == [8.0, pytest.approx(8 * math.sqrt(125)), "inf"]
    assert p[-1] == "inf"


def test_a_batch_is_not_larger_than_the_recipes():
    rows = epochs.measure(experiments.get(IBP), "smoke", batch=1000, device=CPU)
    assert {row["batch"] for row in rows} == {64}


def test_a_step_is_the_recipes_at_its_moment_and_moves_the_weights_a_little():
    setting = experiments.get_setting("table1/cifar10_net_mlp", "smoke")
    step = epochs._Step(setting, 16, CPU)
    before = [weight.detach().clone() for weight in step.recipe.objective.parameters()]
    for done in epochs.moments(setting.train.epochs).values():
        step.forward_backward(done)
        assert step.recipe.eps_train == step.recipe.set_progress(done)[1]
        weights = [*step.recipe.objective.parameters()]
        assert all(weight.grad.isfinite().all() for weight in weights)
        for _ in range(5):
            step.forward_backward(done)
            step.optimizer.step()
    moved = [(old - new).abs().max() for old, new in zip(before, weights, strict=True)]
    assert 0 < max(moved) < 1e-3


def test_an_epoch_is_its_images_passes_and_its_steps_updates():
    one = row(IBP, "ramp", 1, passes=[3.0, 9.0, 2.0], update=[0.5, 0.1, 7.0], batch=10, recipe=1024)
    assert epoch_seconds(one) == pytest.approx(50_000 * 3 / 10 + 49 * 0.5)


def test_a_mean_over_the_phases_and_a_ratio_to_ibp(tmp_path):
    rows = [
        row(IBP, "warm-up", 1, [0.032], [0.0]),
        row(IBP, "ramp", 3, [0.064], [0.0]),
        row(CROWN, "ramp", 1, [0.32], [0.0]),
    ]
    summary = times(tmp_path / "a.json", rows).summary()
    assert summary.loc[IBP, ["warm-up", "ramp", "seconds", "ratio"]].tolist() == [50, 100, 87.5, 1]
    assert math.isnan(summary.loc[IBP, "end"])
    assert summary.loc[CROWN, "ratio"] == pytest.approx(500 / 87.5)


def test_rounds_are_added_and_taken_over_by_the_same_code(tmp_path):
    path = tmp_path / "deep" / "epochs-paper-cpu.json"
    first = times(path, [])
    assert first.rounds == 0
    first.add_round([row(IBP, "ramp", 3, [1.0], [0.1])])
    first.add_round([row(IBP, "ramp", 3, [2.0], [0.2])])
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    loaded = EpochTimes.load(path)
    assert loaded.rounds == 2 and loaded.rows[0]["forward_backward_seconds"] == [1.0, 2.0]
    again = times(path, [])
    again.resume()
    assert again.rows == loaded.rows
    others = (
        {"code_sha256": "d"},
        {"batch": 16},
        {"environment": first.environment | {"threads": 2}},
    )
    for other in others:
        changed = times(path, [], **other)
        changed.resume()
        assert changed.rounds == 0, other


def bench(*arguments):
    return main(["bench", "epochs", "--scale", "smoke", "--device", "cpu", *arguments])


@pytest.fixture
def two(monkeypatch):
    """Two methods, so that a round takes a moment."""
    table = replace(table4.TABLE, rows=table4.TABLE.rows[:2])
    monkeypatch.setattr(table4, "TABLE", table)
    monkeypatch.setattr(experiments, "TABLES", {4: table})


def test_the_command_writes_a_record_that_the_table_shows(folders, two, capsys):
    assert "not yet run: python -m linfdist bench epochs --scale smoke" in report.text(4, "smoke")
    assert bench("--rounds", "1", "--batch", "16") == 0
    path = folders / "runs" / "bench" / "epochs-smoke-cpu.json"
    assert f"Written to {path}." in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert (content["scale"], content["batch"]) == ("smoke", 16)
    table = report.table(4, "smoke")
    assert table["paper ratio"].tolist() == pytest.approx([1, 112.4 / 17.4])
    assert table["batch"].tolist() == [16, 16]
    assert table["ratio"][0] == 1 and (table["seconds"] > 0).all()
    ibp = table.iloc[0]
    weighted = sum(
        ibp[f"ratio, {phase}"] * length
        for phase, length in zip(epochs.PHASES, (320, 1600, 1280), strict=True)
    )
    assert weighted / 3200 == pytest.approx(1)
    assert table["status"].str.startswith("median of 1 rounds, ").all()
    text = report.text(4, "smoke")
    assert "6.46×" in text and "112.4" in text and "nan" not in text.lower()
    assert "6.46×" in report.show(4, "smoke").to_html()
    assert report.table(4, "paper")["status"].str.startswith("not yet run: ").all()
    assert recorded.benches() == []  # of the operations there is none


def test_out_of_time_leaves_rounds_that_resume_measures(folders, two, capsys):
    assert bench("--rounds", "2", "--seconds", "-1") == 3
    assert "2 rounds are left; --resume measures them." in capsys.readouterr().err
    assert bench("--rounds", "1") == 0
    assert bench("--rounds", "2") == 2  # not over what is recorded
    assert "epochs-smoke-cpu.json already exists and " in capsys.readouterr().err
    assert bench("--rounds", "2", "--resume") == 0
    (path,) = (folders / "runs" / "bench").iterdir()
    assert EpochTimes.load(path).rounds == 2


def test_what_stands_before_the_word_epochs_counts(folders, two, tmp_path):
    out = tmp_path / "here.json"
    arguments = ["bench", "--rounds", "1", "--json", str(out), "--device", "cpu"]
    assert main([*arguments, "epochs", "--scale", "smoke"]) == 0
    assert EpochTimes.load(out).rounds == 1 and not (folders / "runs").exists()


def test_ctrl_c_keeps_whole_rounds(two, monkeypatch, capsys):
    measure, calls = epochs.measure, []

    def stopped(*given, **settings):
        calls.append(given)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return measure(*given, **settings)

    monkeypatch.setattr(epochs, "measure", stopped)
    assert bench("--rounds", "3") == 130
    assert "2 rounds are left" in capsys.readouterr().err


def test_too_little_memory_is_one_line(two, monkeypatch, capsys):
    def failing(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore.")

    monkeypatch.setattr(epochs, "measure", failing)
    assert bench() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.endswith("CUDA out of memory. Tried to allocate 9 GiB. Give a smaller --batch.")


@pytest.mark.parametrize("batch", ["0", "1", "-1", "many"])
def test_a_batch_is_a_whole_number(batch, capsys):
    """Of a single image a mean shift would leave nothing."""
    with pytest.raises(SystemExit):
        bench("--batch", batch)
    assert f"must be a whole number of at least 2; got '{batch}'" in capsys.readouterr().err


def test_an_unknown_scale_is_named(capsys):
    assert main(["bench", "epochs", "--scale", "papre"]) == 2
    assert "Did you mean 'paper'" in capsys.readouterr().err


def test_devices_stand_below_one_another_gpus_last(folders, two):
    folder = folders / "runs" / "bench"
    for name, backend in (("a-gpu", "native (cuda)"), ("cpu", "native (avx2)")):
        here = {"device": name, "threads": 1, "backend": backend}
        rows = [row(one.experiment.name, "ramp", 1, [1.0], [0.0]) for one in table4.TABLE.rows]
        times(folder / f"epochs-paper-{name}.json", [], environment=here).add_round(rows)
    devices = report.table(4, "paper")["device"].tolist()
    assert devices == ["cpu, 1 thr."] * 2 + ["a-gpu"] * 2
