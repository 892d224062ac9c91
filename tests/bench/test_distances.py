"""The bench times what it has checked, and says so."""

import math
import sys
from importlib.util import find_spec

import pytest
import torch

from linfdist.bench import distances, peers, roofline
from linfdist.ops import lp_dist

CPU = torch.device("cpu")
SHAPE = (6, 20, 10)


def measure(p, backward, **given):
    settings = {"device": CPU, "rounds": 2, "patience": 60.0} | given
    return distances.measure(SHAPE, p, backward, **settings)


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    """No C++ compiler run a case: eager mode stands in for the compiled formula."""
    monkeypatch.setattr(peers, "_compiled", lambda p: lambda x, w: peers._broadcast(x, w, p))


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
        assert row["note"] == ("another function" if row["candidate"] in peers.SMOOTHED else "")
        assert row["seconds"] <= row["median_seconds"]
        assert row["giga_pairs_per_second"] == pytest.approx(1200 / row["seconds"] / 1e9)


@pytest.mark.parametrize("p", [math.inf, 8.0, 8.7])
def test_log_sum_exp_is_timed_beside_a_real_power(p):
    names = [row["candidate"] for row in measure(p, True)]
    assert (set(peers.SMOOTHED) <= set(names)) == (p == 8.7)


def test_a_power_too_large_for_a_peer_is_marked():
    (cdist,) = [row for row in measure(1000.0, False) if row["candidate"] == "torch.cdist"]
    assert cdist["note"] == "differs by more than 1 %"


def test_a_cpu_has_neither_a_roofline_nor_a_memory_of_its_own():
    assert roofline.hardware(CPU) is None
    for row in measure(math.inf, False):
        assert not {"roofline_share", "peak_memory_mb", "launch_seconds"} & {*row}


def test_the_share_of_the_roofline_is_the_least_time_over_ours():
    gpu = roofline.Hardware(
        capability="9.0", multiprocessors=1, clock_mhz=1.0, bandwidth_gb_per_second=None
    )
    ours = measure(math.inf, False, hardware=gpu)[0]
    assert ours["roofline_share"] == pytest.approx(1200 / 64e6 / ours["seconds"])


def test_a_wrong_peer_is_marked_and_a_failing_one_left_out(monkeypatch):
    contenders = {
        "linfdist": lambda x, w: lp_dist(x, w, 8.0),
        "wrong": lambda x, w: 1.1 * lp_dist(x, w, 8.0),
        "failing": lambda x, w: (_ for _ in ()).throw(RuntimeError("no such thing\nat all")),
    }
    monkeypatch.setattr(peers, "candidates", lambda *_: contenders)
    ours, wrong, failing = measure(8.0, False)
    assert ours["note"] == ""
    assert wrong["note"] == "differs by more than 1 %"
    assert failing == {**failing, "note": "no such thing", "candidate": "failing"}
    assert "seconds" not in failing


def test_a_peer_that_fails_later_is_out_as_well(monkeypatch):
    calls = iter(range(100))

    def tiring(x, w):
        if next(calls) == 2:
            raise MemoryError
        return lp_dist(x, w, 8.0)

    contenders = {"linfdist": lambda x, w: lp_dist(x, w, 8.0), "tiring": tiring}
    monkeypatch.setattr(peers, "candidates", lambda *_: contenders)
    ours, out = measure(8.0, False, rounds=5)
    assert ours["rounds"] == 5
    assert out["note"] == "MemoryError" and "seconds" not in out


def test_ours_is_never_left_out_and_its_errors_are_not_swallowed(monkeypatch):
    rows = measure(8.0, True, limit=0.0, speeds={"linfdist": 1e-9})
    assert rows[0]["candidate"] == "linfdist" and rows[0]["seconds"] > 0

    def broken(x, weight):
        raise RuntimeError("ours is broken")

    monkeypatch.setattr(peers, "candidates", lambda *_: {"linfdist": broken})
    with pytest.raises(RuntimeError, match="ours is broken"):
        measure(8.0, False)


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    notes = {row["candidate"]: row["note"] for row in measure(8.0, False)}
    assert notes["numba"] == notes["scipy"] == 'not installed: pip install -e ".[bench]"'


@pytest.mark.skipif(find_spec("scipy") is None, reason="needs scipy")
def test_what_would_take_too_long_is_left_out_with_an_estimate():
    rows = measure(8.0, False, limit=1.0, speeds={"scipy": 1e-8})
    (scipy,) = [row for row in rows if row["candidate"] == "scipy"]
    assert scipy["note"] == "left out: about 120 s, estimated from the smaller shape"
    assert "seconds" not in scipy


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with kernels of the user's own, in the working directory."""
    (tmp_path / "my_kernels.py").write_text(
        "import torch\ndef distance(x, weight, p):\n    return torch.cdist(x, weight, p=p)\n"
    )
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_kernels", None)


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("backward", [False, True])
def test_a_users_own_kernels_are_checked_and_timed_with_the_rest(backward):
    before = list(sys.path)
    extra = peers.load(["my_kernels:distance"])
    assert sys.path == before
    row = measure(8.0, backward, extra=extra)[1]
    assert row["candidate"] == "my_kernels:distance"
    assert row["note"] == "" and row["seconds"] > 0


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_kernels", "must be module:function; got 'my_kernels'"),
        ("my_kernels:", "must be module:function"),
        ("no_kernels:distance", "No module named 'no_kernels'. The module must be installed"),
        ("my_kernels:distances", "my_kernels:distances cannot be loaded: .*no attribute"),
    ],
)
def test_a_peer_that_cannot_be_loaded_is_refused(name, message):
    with pytest.raises(peers.PeerError, match=message):
        peers.load([name])
