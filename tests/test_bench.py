"""The bench times what it has checked, and says so."""

import json
import math
from importlib.util import find_spec

import pytest
import torch

from linfdist import bench
from linfdist.__main__ import main

CPU = torch.device("cpu")
SHAPE = (6, 20, 10)


def measure(p, backward):
    return bench.measure(SHAPE, p, backward, device=CPU, rounds=2, patience=60.0)


@pytest.fixture
def _eager(monkeypatch):
    """No C++ compiler run a case: eager mode stands in for the compiled formula."""
    monkeypatch.setattr(bench, "_compiled", lambda p: lambda x, w: bench._broadcast(x, w, p))


@pytest.mark.usefixtures("_eager")
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("p", [math.inf, 8.0, 8.7])
def test_a_row_for_each_candidate_none_of_them_wrong(p, backward):
    rows = measure(p, backward)
    names = [row["candidate"] for row in rows]
    assert names[:3] == ["linfdist", "torch.cdist", "torch.compile"]
    assert rows[0]["ours_is_faster_by"] == 1
    for row in rows:
        if row["note"].startswith("not installed"):
            assert "seconds" not in row
            continue
        assert row["note"] == ""
        assert row["seconds"] <= row["median_seconds"]
        assert row["giga_pairs_per_second"] == pytest.approx(1200 / row["seconds"] / 1e9)


@pytest.mark.usefixtures("_eager")
def test_a_wrong_peer_is_marked_and_a_failing_one_left_out(monkeypatch):
    peers = {
        "linfdist": lambda x, w: bench.lp_dist(x, w, 8.0),
        "wrong": lambda x, w: 1.1 * bench.lp_dist(x, w, 8.0),
        "failing": lambda x, w: (_ for _ in ()).throw(RuntimeError("no such thing\nat all")),
    }
    monkeypatch.setattr(bench, "candidates", lambda p, backward, device: peers)
    ours, wrong, failing = measure(8.0, False)
    assert ours["note"] == ""
    assert wrong["note"] == "differs by more than 1 %"
    assert failing == {**failing, "note": "no such thing", "candidate": "failing"}
    assert "seconds" not in failing


@pytest.mark.usefixtures("_eager")
def test_ours_is_never_left_out_and_its_errors_are_not_swallowed(monkeypatch):
    rows = bench.measure(
        SHAPE, 8.0, True, device=CPU, rounds=1, patience=60.0, limit=0.0, speeds={"linfdist": 1e-9}
    )
    assert rows[0]["candidate"] == "linfdist" and rows[0]["seconds"] > 0

    def broken(x, weight):
        raise RuntimeError("ours is broken")

    monkeypatch.setattr(bench, "candidates", lambda *_: {"linfdist": broken})
    with pytest.raises(RuntimeError, match="ours is broken"):
        measure(8.0, False)


@pytest.mark.usefixtures("_eager")
def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    notes = {row["candidate"]: row["note"] for row in measure(8.0, False)}
    assert notes["numba"] == notes["scipy"] == 'not installed: pip install -e ".[bench]"'


@pytest.mark.skipif(find_spec("scipy") is None, reason="needs scipy")
@pytest.mark.usefixtures("_eager")
def test_what_would_take_too_long_is_left_out_with_an_estimate():
    rows = bench.measure(
        SHAPE, 8.0, False, device=CPU, rounds=1, patience=60.0, limit=1.0, speeds={"scipy": 1e-8}
    )
    (scipy,) = [row for row in rows if row["candidate"] == "scipy"]
    assert scipy["note"] == "left out: about 120 s by its speed at the smaller shape"
    assert "seconds" not in scipy


@pytest.mark.usefixtures("_eager")
def test_command_prints_the_table_and_writes_json(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "SHAPES", (SHAPE,))
    out = tmp_path / "deep" / "bench.json"
    assert main(["bench", "--device", "cpu", "--rounds", "1", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "torch.cdist" in printed and "6x20->10" in printed
    written = json.loads(out.read_text())
    assert {row["p"] for row in written["rows"]} == {"inf", 8.0, 8.7}
    assert written["environment"]["backend"].startswith(("native", "reference"))
