"""The inner loops of the CUDA kernels, with their instructions counted (tests/helpers/sass.py).

Nothing here is measured: the counts bound the pairs per second that the code can reach.
"""

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import records
from linfdist.bench import roofline
from linfdist.records.files import read_sealed

FILE = "sass.json"
ARCHITECTURE, CAPABILITY = "sm_90", "9.0"  # the target of the file's bounds
PIPES = {"FMA": "FMA", "ALU": "ALU", "MUFU": "special", "LDS": "shared memory", "issue": "all"}


def load(path: Path | None = None) -> dict[str, Any] | None:
    """The counts in runs/bench/sass.json, or in ``path``; None if the file does not exist."""
    path = path or records.runs_dir() / "bench" / FILE
    return read_sealed(path) if path.is_file() else None


def table(counted: dict[str, Any]) -> pd.DataFrame:
    """One row per kernel: registers, instructions per pair, and the speed that they allow.

    "at most" and "roofline" are in 10^12 pairs per second. "roofline" is the same GPU's, NaN if the
    kernel has none.
    """
    model = counted["model"]
    gpu = roofline.Hardware(
        capability=CAPABILITY,
        multiprocessors=model["partitions"] // 4,
        clock_mhz=model["hertz"] / 1e6,
        bandwidth_gb_per_second=None,
    )
    return pd.DataFrame(
        {"kernel": kernel["title"], "registers": kernel["registers"], "spills": kernel["spills"]}
        | {name: kernel["pipes"][pipe] for pipe, name in PIPES.items()}
        | {"at most": kernel["bound"] / 1e12, "roofline": _roofline(kernel["title"], gpu)}
        for kernel in counted["kernels"]
        if kernel["architecture"] == ARCHITECTURE
    )


def show(counted: dict[str, Any]) -> Styler:
    """The table for a notebook."""
    shown = table(counted)
    styler = shown.style.hide(axis="index").format(precision=2, na_rep="–")
    return styler.set_caption(
        f"Instructions a pair, and 10¹² pairs a second on an {counted['model']['device']}; "
        f"{ARCHITECTURE}, nvcc {counted['nvcc']}"
    )


def _roofline(title: str, gpu: roofline.Hardware) -> float:
    """The roofline for a kernel's title, in 10^12 pairs per second; NaN if it has none."""
    whole = re.match(r"p = (\d+|∞), (forward|both gradients)", title)
    real = re.match(r"(real p|large p), (forward|both gradients)(?!.*nothing counts)", title)
    matched = real or whole
    if matched is None:
        return math.nan
    p = 8.7 if real else float(matched[1].replace("∞", "inf"))
    rate = roofline.pairs_per_second(p, matched[2] == "both gradients", gpu)
    return math.nan if rate is None else rate / 1e12
