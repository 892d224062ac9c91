"""The recorded benches, runs/bench/*.json, as tables."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import records
from linfdist.bench import machine_code, roofline
from linfdist.bench.epochs_file import PREFIX
from linfdist.bench.file import in_form, json_files
from linfdist.bench.peers import OURS, SMOOTHED
from linfdist.records.files import read_sealed

NO_GPU_RUN = "not yet run on a GPU"
CASE_COLUMNS = ["shape", "p", "pass"]
PRECISIONS = {"highest": "float32", "medium": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One recorded bench; p is a float, and ``iterations`` is empty for older files."""

    path: Path
    environment: dict[str, Any]
    hardware: roofline.Hardware | None
    rows: pd.DataFrame
    iterations: pd.DataFrame

    @property
    def on_gpu(self) -> bool:
        """Whether the CUDA kernels ran."""
        return "cuda" in self.environment["backend"]

    @property
    def title(self) -> str:
        """The device, a CPU's number of threads, and the backend that ran there."""
        environment = self.environment
        threads = "" if self.on_gpu else f", {environment['threads']} threads"
        return f"{environment['device']}{threads}, {environment['backend']}"


def load(path: Path) -> Bench:
    """The bench in a file.

    Raises:
        RecordError: the file is damaged or has another form, or a derived number does not follow
            from its times.
    """
    with in_form(path):
        content = read_sealed(path)
        hardware = content.get("hardware")
        bench = Bench(
            path=path,
            environment=content["environment"],
            hardware=None if hardware is None else roofline.Hardware(**hardware),
            rows=_table(content["rows"]),
            iterations=_table(content.get("iterations", [])),
        )
        _ = bench.title
        _check_derived(bench)
        return bench


def _check_derived(bench: Bench) -> None:
    """Raise ValueError if pairs per second or factors differ from ``distances.measure``'s formulas.

    Shares of the roofline are not checked, because they also depend on the code that measured.
    """
    for case, rows in bench.rows.groupby(CASE_COLUMNS, sort=False):
        (ours,) = rows.loc[rows["candidate"] == OURS, "seconds"]
        shape, p, passes = case
        pairs = math.prod(int(size) for size in re.findall(r"\d+", shape))
        for row in rows[rows["seconds"].notna()].to_dict("records"):
            wanted = {
                "giga_pairs_per_second": pairs / row["seconds"] / 1e9,
                "ours_is_faster_by": row["seconds"] / ours,
            }
            for name, value in wanted.items():
                if not math.isclose(row[name], value, rel_tol=1e-6):
                    raise ValueError(
                        f"{row['candidate']}, {shape}, p={p:g}, {passes}: {name} must be "
                        f"{value:.6g}, computed from its seconds; it is {row[name]:.6g}"
                    )


def benches(folder: Path | None = None) -> list[Bench]:
    """All benches in runs/bench, or in ``folder``: CPUs, then GPUs, each sorted by file name."""
    folder = folder or records.runs_dir() / "bench"
    paths = [path for path in json_files(folder) if path.name != machine_code.FILE]
    benches = [path for path in paths if not path.name.startswith(PREFIX)]
    return sorted(map(load, benches), key=lambda bench: bench.on_gpu)


def gpu_state(recorded: Sequence[Bench]) -> str:
    """A phrase about GPUs: the names of those with a recorded bench, or that there is none."""
    names = [bench.environment["device"] for bench in recorded if bench.on_gpu]
    return f"run on {', '.join(names)}" if names else NO_GPU_RUN


def best_peers(bench: Bench) -> pd.DataFrame:
    """One row per case: our 10^9 pairs per second, the fastest peer that agrees, and our factor.

    The peer's name is empty if no peer agrees.
    """
    lines = []
    for case, rows in bench.rows.groupby(CASE_COLUMNS, sort=False):
        ours = rows[rows["candidate"] == OURS].iloc[0]
        peers = rows[(rows["candidate"] != OURS) & rows["seconds"].notna() & (rows["note"] == "")]
        best = peers.loc[peers["seconds"].idxmin()] if len(peers) else None
        lines.append(
            dict(zip(CASE_COLUMNS, case, strict=True))
            | {
                "giga_pairs_per_second": ours["giga_pairs_per_second"],
                "roofline_share": ours.get("roofline_share", math.nan),
                "best_peer": "" if best is None else best["candidate"],
                "faster_by": math.nan if best is None else best["ours_is_faster_by"],
            }
        )
    return pd.DataFrame(lines)


def smoothed(bench: Bench) -> pd.DataFrame:
    """One row per LogSumExp timing beside ℓp: the seconds of both, and their ratio.

    The table is empty if the bench has no LogSumExp timings.
    """
    lines = []
    for case, rows in bench.rows.groupby(CASE_COLUMNS, sort=False):
        ours = rows[rows["candidate"] == OURS].iloc[0]
        for _, row in rows[rows["candidate"].isin(SMOOTHED)].iterrows():
            lines.append(
                dict(zip(CASE_COLUMNS, case, strict=True))
                | {
                    "precision": SMOOTHED[row["candidate"]],
                    "lp_seconds": ours["seconds"],
                    "seconds": row["seconds"],
                    "faster_by": ours["seconds"] / row["seconds"],
                }
            )
    columns = [*CASE_COLUMNS, "precision", "lp_seconds", "seconds", "faster_by"]
    return pd.DataFrame(lines, columns=columns)


def show_smoothed(bench: Bench) -> Styler:
    """``smoothed`` for a notebook."""
    shown = smoothed(bench)
    shown["shape"] = shown["shape"].map(format_shape)
    shown["p"] = shown["p"].map(format_p)
    shown["precision"] = shown["precision"].map(PRECISIONS)
    for name in ("lp_seconds", "seconds"):
        shown[name] = shown[name].map("{:.3f}".format)
    shown["faster_by"] = shown["faster_by"].map("{:.1f}×".format)
    names = {"shape": "in → out", "lp_seconds": "ℓp, s", "seconds": "LogSumExp, s"}
    names |= {"precision": "products", "faster_by": "faster by"}
    return shown.rename(columns=names).style.hide(axis="index").set_caption(bench.title)


def format_p(p: float) -> str:
    """A power in print: "∞" or a number."""
    return "∞" if math.isinf(p) else f"{p:g}"


def format_shape(shape: str) -> str:
    """The in → out part of a shape; the batch is always 512."""
    return shape.removeprefix("512x").replace("->", " → ")


def format_factor(factor: float) -> str:
    """How many times faster ours is, with two decimals below 2."""
    return f"{factor:.0f}×" if factor >= 2 else f"{factor:.2f}×"


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame([row | {"p": float(row["p"])} for row in rows])
