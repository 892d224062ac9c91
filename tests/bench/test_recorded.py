"""Recorded benches are read, whatever their age, and drawn."""

import math

import matplotlib.pyplot as plt
import pytest

from linfdist import records
from linfdist.bench import plots, recorded, roofline
from linfdist.records.files import sealed_text

ENVIRONMENT = {"device": "a CPU", "threads": 2, "backend": "native (avx2)"}
H100 = {
    "capability": "9.0",
    "multiprocessors": 132,
    "clock_mhz": 1750.0,
    "bandwidth_gb_per_second": 3000.0,
}


def row(candidate, speed, note="", **given):
    case = {"shape": "512x20->10", "p": "inf", "pass": "forward", "candidate": candidate}
    if speed is None:
        return case | {"note": note} | given
    ours = speed if candidate == "linfdist" else 10
    times = {"seconds": 512 * 20 * 10 / speed / 1e9, "giga_pairs_per_second": speed}
    times |= {"ours_is_faster_by": ours / speed}
    return case | times | {"note": note} | given


def step(part, candidate="linfdist", p="inf"):
    case = {"net": "table1/mnist_net", "scale": "reduced", "p": p, "part": part}
    return case | {"candidate": candidate, "seconds": 0.01, "note": ""}


@pytest.fixture
def write(tmp_path):
    def write_file(name, **content):
        path = tmp_path / f"{name}.json"
        path.write_text(sealed_text({"environment": ENVIRONMENT} | content))
        return path

    return write_file


def test_the_best_peer_is_the_fastest_that_agrees(write):
    rows = [row("linfdist", 10.0), row("slow", 1.0), row("fast", 2.0)]
    rows += [row("wrong", 5.0, "differs by more than 1 %"), row("absent", None, "not installed")]
    bench = recorded.load(write("cpu", rows=rows))
    (best,) = recorded.best_peers(bench).to_dict("records")
    assert best["best_peer"] == "fast" and best["faster_by"] == 5
    assert best["giga_pairs_per_second"] == 10 and math.isnan(best["roofline_share"])


def test_log_sum_exp_stands_beside_the_power_it_replaces(write):
    names = ("linfdist.lse_dist", "linfdist.lse_dist, bfloat16")
    rows = [row("linfdist", 10.0, p=8.7), row("torch.cdist", 5.0, p=8.7)]
    rows += [
        row(name, speed, "another function", p=8.7)
        for name, speed in zip(names, (70, 160), strict=True)
    ]
    bench = recorded.load(write("cpu", rows=[row("linfdist", 10.0), *rows]))
    found = recorded.smoothed(bench)
    assert found["precision"].tolist() == ["highest", "medium"]
    assert found["faster_by"].tolist() == pytest.approx([7, 16])
    shown = recorded.show_smoothed(bench).to_html()
    assert "16.0×" in shown and "bfloat16" in shown and "torch.cdist" not in shown
    assert recorded.best_peers(bench)["best_peer"].tolist() == ["", "torch.cdist"]
    assert recorded.smoothed(recorded.load(write("old", rows=[row("linfdist", 1.0)]))).empty


def test_a_case_without_peers_has_no_factor(write):
    rows = [row("linfdist", 10.0, roofline_share=0.6), row("slow", None, "left out: about 91 s")]
    (best,) = recorded.best_peers(recorded.load(write("gpu", rows=rows))).to_dict("records")
    assert best["best_peer"] == "" and math.isnan(best["faster_by"])
    assert best["roofline_share"] == 0.6


def test_cpus_come_before_gpus_and_other_files_are_left_alone(write, tmp_path):
    (tmp_path / "sass.json").write_text("{}")
    rows = [row("linfdist", 10.0)]
    gpu = {"device": "NVIDIA H100", "backend": "native (cuda)"}
    write("a-gpu", rows=rows, environment=ENVIRONMENT | gpu, hardware=H100)
    write("cpu", rows=rows)
    found = recorded.benches(tmp_path)
    assert [bench.path.stem for bench in found] == ["cpu", "a-gpu"]
    assert [bench.title for bench in found] == [
        "a CPU, 2 threads, native (avx2)",
        "NVIDIA H100, native (cuda)",
    ]
    assert found[1].hardware == roofline.Hardware(**H100)
    assert recorded.gpu_state(found) == "run on NVIDIA H100"
    assert recorded.gpu_state(found[:1]) == recorded.gpu_state([]) == "not yet run on a GPU"


def test_a_gpu_whose_kernels_were_not_built_is_no_gpu(write):
    environment = ENVIRONMENT | {"device": "NVIDIA H100", "backend": "reference"}
    bench = recorded.load(write("gpu", rows=[row("linfdist", 1.0)], environment=environment))
    assert recorded.gpu_state([bench]) == "not yet run on a GPU"


def test_the_recorded_benches_of_this_repository_are_read():
    found = recorded.benches(records.repository() / "runs" / "bench")
    assert "cpu" in [bench.path.stem for bench in found]
    for bench in found:
        assert len(recorded.best_peers(bench)) == len(bench.rows.groupby(recorded.CASE_COLUMNS))


def test_pictures_have_a_bar_for_what_was_timed_and_a_line_for_the_roofline(write):
    rows = [row("linfdist", 10.0, roofline_share=0.5), row("torch.cdist", 1.0)]
    rows += [row("own:distance", 4.0), row("scipy", None, "not installed")]
    bench = recorded.load(write("gpu", rows=rows))
    figure = plots.distances(bench)
    (ax,) = figure.axes
    heights = [bar.get_height() for bar in ax.patches if bar.get_height() > 0]
    assert heights == [10.0, 1.0, 4.0]
    (line,) = ax.lines
    assert list(line.get_ydata()) == [20, 20]
    plt.close(figure)


def test_a_step_has_a_bar_for_each_part_and_one_for_the_optimizers_peer(write):
    parts = [step(part) for part in ("forward+backward", "iteration", "optimizer")]
    peer = step("optimizer", "torch.optim.AdamW(fused)") | {"seconds": 0.002}
    failed = step("optimizer", p=8.0) | {"seconds": None, "note": "out of memory"}
    rows = {"rows": [row("linfdist", 1.0)], "iterations": [*parts, peer, failed]}
    figure = plots.steps(recorded.load(write("cpu", **rows)))
    (ax,) = figure.axes
    assert [bar.get_height() for bar in ax.patches] == [10, 10, 2]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["p = ∞"]
    plt.close(figure)


def test_a_factor_below_two_has_digits():
    assert [recorded.format_factor(x) for x in (96.6, 2.2, 1.26, 0.8)] == [
        "97×",
        "2×",
        "1.26×",
        "0.80×",
    ]


def test_the_table_of_the_page_has_the_share_of_the_roofline_where_there_is_one(write):
    rows = [row("linfdist", 10.0, roofline_share=0.61), row("torch.cdist", 1.0)]
    cpu = plots.show(recorded.load(write("cpu", rows=rows))).to_html()
    gpu = plots.show(recorded.load(write("gpu", rows=rows, hardware=H100))).to_html()
    assert "61%" in gpu and "of the roofline" in gpu and "10×" in gpu
    assert "roofline" not in cpu


def test_the_arithmetic_of_the_rooflines():
    table = plots.roofline_table(roofline.Hardware(**H100), (math.inf, 8.0, 8.7))
    assert list(table["p"]) == ["∞", "8", "8", "8.7", "8.7"]
    forward = table[table["pass"] == "forward"]
    assert list(forward["pairs a clock"]) == [64, 32, 8]
    assert list(forward["10¹² pairs a second"]) == pytest.approx([14.784, 7.392, 1.848])
