"""The command line of the bench: its tables and its file, and going on where it stopped."""

import pytest
import torch

from linfdist.bench import distances, iterations, peers
from linfdist.bench.file import file_name
from linfdist.cli import main
from linfdist.records import environment
from linfdist.records.files import read_sealed, sealed_text

SHAPE = (6, 20, 10)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shapes and a net of milliseconds, and no peer that has to be compiled."""
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    monkeypatch.setattr(peers, "_compiled", lambda p: lambda x, w: peers._broadcast(x, w, p))
    monkeypatch.setattr(distances, "BENCH_SHAPES", {"cpu": (SHAPE, (6, 30, 10))})
    monkeypatch.setattr(iterations, "SCALE_OF_DEVICE", {"cpu": "smoke"})
    monkeypatch.setattr(iterations, "NETS", ("table1/mnist_net",))


def bench(*arguments):
    return main(["bench", "--device", "cpu", "--rounds", "1", *map(str, arguments)])


def test_prints_the_tables_and_writes_json(tmp_path, capsys):
    out = tmp_path / "deep" / "bench.json"
    assert bench("--json", out) == 0
    printed = capsys.readouterr().out
    assert "torch.cdist" in printed and "6x20->10" in printed and "AdamW(fused)" in printed
    assert printed.endswith(f"Written to {out}.\n")
    written = read_sealed(out)
    assert {row["p"] for row in written["rows"]} == {"inf", 8.0, 8.7, 1000.0}
    assert {row["p"] for row in written["iterations"]} == {"inf", 8.0, 8.7, 1000.0}
    assert written["environment"]["backend"].startswith(("native", "reference"))
    assert "hardware" not in written  # a CPU has no roofline
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_quick_is_the_smallest_shape(capsys):
    assert bench("--quick") == 0
    printed = capsys.readouterr().out
    assert "6x20->10" in printed and "6x30->10" not in printed
    assert "Written" not in printed


def test_out_of_time_keeps_what_is_done_and_resume_measures_the_rest(tmp_path, capsys, monkeypatch):
    out = tmp_path / "bench.json"
    assert bench("--json", out, "--seconds", "-1") == 3
    assert "20 cases are left; --resume measures them." in capsys.readouterr().err
    assert not out.exists()

    assert bench("--json", out, "--quick") == 0
    before = read_sealed(out)
    capsys.readouterr()
    assert bench("--json", out) == 2
    assert "bench.json already exists and is not overwritten. Pass --resume to continue it" in (
        capsys.readouterr().err
    )
    assert read_sealed(out) == before
    assert bench("--json", out, "--resume") == 0
    after = read_sealed(out)
    assert after["iterations"] == before["iterations"]
    assert after["rows"][: len(before["rows"])] == before["rows"]
    assert {row["shape"] for row in after["rows"]} == {"6x20->10", "6x30->10"}

    assert bench("--json", out, "--resume") == 0  # nothing is left
    assert read_sealed(out) == after

    case = {"shape": "6x20->10", "p": 8.0}  # measured last, it comes back to its place
    others = [row for row in after["rows"] if not case.items() <= row.items()]
    out.write_text(sealed_text(after | {"rows": others}))
    assert bench("--json", out, "--resume") == 0
    places = [[row[key] for key in ("shape", "p", "pass", "candidate")] for row in after["rows"]]
    again = read_sealed(out)["rows"]
    assert places == [[row[key] for key in ("shape", "p", "pass", "candidate")] for row in again]


def test_ctrl_c_keeps_what_is_done(tmp_path, capsys, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "bench.json"
    monkeypatch.setattr(distances, "measure", stopped)
    assert bench("--json", out) == 130
    assert "16 cases are left; --resume measures them." in capsys.readouterr().err
    assert len(read_sealed(out)["iterations"]) == 18  # four a p, and two of LogSumExp beside 8.7


def test_resume_starts_afresh_for_other_code(tmp_path, monkeypatch):
    out = tmp_path / "bench.json"
    bench("--json", out, "--quick")
    content = read_sealed(out)
    first = content["rows"][0] | {"seconds": 123.0}
    for change in (
        {"code_sha256": "other"},
        {"environment": content["environment"] | {"threads": 99}},
    ):
        out.write_text(sealed_text(content | {"rows": [first, *content["rows"][1:]]} | change))
        bench("--json", out, "--quick", "--resume")
        assert read_sealed(out)["rows"][0]["seconds"] < 100


def test_resume_measures_a_case_again_for_a_new_peer(tmp_path, monkeypatch):
    (tmp_path / "own_kernels.py").write_text(
        "import torch\ndef distance(x, weight, p):\n    return torch.cdist(x, weight, p=p)\n"
    )
    monkeypatch.chdir(tmp_path)
    bench("--json", "bench.json", "--quick")
    before = read_sealed(tmp_path / "bench.json")
    bench("--json", "bench.json", "--quick", "--resume", "--peer", "own_kernels:distance")
    after = read_sealed(tmp_path / "bench.json")
    assert after["iterations"] == before["iterations"]
    names = [row["candidate"] for row in after["rows"]]
    assert names.count("linfdist") == names.count("own_kernels:distance") == 8


def test_a_peer_that_is_not_there_is_one_line_on_stderr(capsys):
    assert bench("--peer", "no_kernels:distance") == 2
    assert "--peer no_kernels:distance cannot be loaded" in capsys.readouterr().err


def test_our_ops_are_held_to_the_reference_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(distances, "lp_dist", lambda x, w, p: torch.cdist(x, w, p=2.0))
    with pytest.raises(AssertionError, match="not close"):
        bench()


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3.json"),
        ("NVIDIA GeForce RTX 3090", "nvidia-geforce-rtx-3090.json"),
    ],
)
def test_a_device_has_a_file(device, name):
    assert file_name(device) == name


def test_the_code_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr(
        environment, "__file__", str(tmp_path / "linfdist" / "records" / "environment.py")
    )
    folder = tmp_path / "linfdist"
    folder.mkdir()
    (folder / "a.py").write_text("a = 1\n")
    first = environment.code_sha256("linfdist")
    (folder / "notes.txt").write_text("no code")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "b.py").write_text("b = 1\n")
    assert environment.code_sha256("linfdist") == first
    assert environment.code_sha256("linfdist", "tests") != first
    (folder / "a.py").write_text("a = 2\n")
    assert environment.code_sha256("linfdist") != first
