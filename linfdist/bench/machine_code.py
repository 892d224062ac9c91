"""The inner loops of the CUDA kernels, with their instructions counted (tests/helpers/sass.py).

Nothing here was measured: a count says how many pairs a second the code cannot exceed.
"""

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import records
from linfdist.bench import roofline
from linfdist.records.run import read_sealed

FILE = "sass.json"
ARCHITECTURE, CAPABILITY = "sm_90", "9.0"  # what the file's bounds are for
PIPES = {"FMA": "FMA", "ALU": "ALU", "MUFU": "special", "LDS": "shared memory", "issue": "all"}


def load(path: Path | None = None) -> dict[str, Any] | None:
    """What is counted in runs/bench/sass.json, or in ``path``; None where there is no such file."""
    path = path or records.runs_dir() / "bench" / FILE
    return read_sealed(path) if path.is_file() else None


def table(counted: dict[str, Any]) -> pd.DataFrame:
    """One row a kernel: registers, instructions a pair, and 10^12 pairs a second that they allow.

    Beside that stands the roofline of the same GPU, where the kernel has one.
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
    """10^12 pairs a second of what a kernel's title names; NaN where no roofline applies."""
    whole = re.match(r"p = (\d+|∞), (forward|both gradients)", title)
    real = re.match(r"(real p|large p), (forward|both gradients)(?!.*nothing counts)", title)
    if not (whole or real):
        return math.nan
    p = 8.7 if real else float(whole[1].replace("∞", "inf"))
    rate = roofline.pairs_per_second(p, (whole or real)[2] == "both gradients", gpu)
    return math.nan if rate is None else rate / 1e12
