"""What the disassembly counted is shown beside the rooflines, and as nothing more than a count."""

import math

import pytest

from linfdist.bench import machine_code, recorded
from linfdist.records.files import sealed_text

PIPES = {"FMA": 1.1, "ALU": 1.0, "MUFU": 0.0, "LDS": 0.12, "issue": 2.3}


def kernel(title, architecture="sm_90", bound=1.2e13):
    numbers = {"title": title, "architecture": architecture, "registers": 96, "spills": 0}
    return numbers | {"pipes": PIPES, "bound": bound}


def counted(*kernels):
    model = {"partitions": 528, "hertz": 1.75e9, "device": "H100"}
    return {"nvcc": "13.0", "model": model, "kernels": list(kernels)}


@pytest.mark.parametrize(
    ("title", "tera"),
    [
        ("p = ∞, forward", 14.784),
        ("p = ∞, forward with index", 14.784),
        ("p = 8, forward", 7.392),
        ("p = 8, both gradients", 4.224),
        ("real p, forward", 1.848),
        ("real p, both gradients", 1.848),
        ("large p, forward, all counts", 1.848),
        ("large p, forward, nothing counts", math.nan),
        ("interval", math.nan),
        ("LogSumExp, forward, one counts", math.nan),
    ],
)
def test_a_kernel_stands_beside_its_roofline(title, tera):
    (row,) = machine_code.table(counted(kernel(title))).to_dict("records")
    assert row["roofline"] == pytest.approx(tera, nan_ok=True)
    assert row["at most"] == 12 and row["registers"] == 96
    assert (row["FMA"], row["special"], row["all"]) == (1.1, 0, 2.3)


def test_only_the_architecture_of_the_bounds_is_shown():
    both = counted(kernel("p = 8, forward", "sm_80", bound=None), kernel("p = 4, forward"))
    assert list(machine_code.table(both)["kernel"]) == ["p = 4, forward"]
    page = machine_code.show(both).to_html()
    assert "on an H100; sm_90, nvcc 13.0" in page and "p = 4, forward" in page


def test_the_file_is_found_in_runs_and_is_no_bench(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path))
    assert machine_code.load() is None
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / machine_code.FILE).write_text(sealed_text(counted()))
    assert machine_code.load() == counted()
    assert recorded.benches() == []
