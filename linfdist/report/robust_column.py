"""Is the "Robust" column robust? What the recorded attacks beat and PGD-20 did not."""

import math

import pandas as pd
from pandas.io.formats.style import Styler

from linfdist import experiments
from linfdist.records.attacks import AttackRecord, find_attacks
from linfdist.report.formats import format_percent, format_pixels

ROBUST_COLUMNS = (
    "row",
    "method",
    "data set",
    "eps",
    "seed",
    "images",
    "test",
    "robust",
    "strongest",
    "certified",
    "missed",
    "beaten",
    "share",
    "low",
    "high",
)


def wilson(beaten: int, tried: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share  [Wilson1927]; NaN if ``tried`` is 0."""
    if tried == 0:
        return math.nan, math.nan
    z = 1.959964
    share, scale = beaten / tried, 1 + z**2 / tried
    middle = share + z**2 / (2 * tried)
    spread = z * math.sqrt(share * (1 - share) / tried + z**2 / (4 * tried**2))
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def robust_column(scale: str = "reduced") -> pd.DataFrame:
    """One row per attack record.

    - "images": the number of test images considered, counted from the first.
    - "test", "robust", "strongest", "certified": fractions of these images that are classified
      right, survive the run's PGD-20, survive all attacks, and are certified.
    - "missed": the number of images that survived PGD-20 and are not certified.
    - "beaten": the number of missed images that an attack beat.
    - "share": beaten / missed, the part of the gap between "robust" and "certified" that the
      attacks close.
    - "low", "high": the 95 % confidence interval of "share".
    """
    return pd.DataFrame(
        [_row(record) for record in find_attacks(scale=scale)], columns=[*ROBUST_COLUMNS]
    )


def _row(record: AttackRecord) -> dict[str, object]:
    run, shown, missed = record.run, record.accuracies(), record.missed
    experiment = experiments.get(run.experiment)
    beaten = int(missed["beaten_by"].notna().sum())
    low, high = wilson(beaten, len(missed))
    return {
        "row": run.experiment,
        "method": experiment.title,
        "data set": run.config["setting"]["dataset"],
        "eps": format_pixels(record.eps),
        "seed": run.seed,
        "images": record.images,
        "test": shown["clean"],
        "robust": shown["pgd"],
        "strongest": shown["strongest"],
        "certified": shown["certified"],
        "missed": len(missed),
        "beaten": beaten,
        "share": beaten / len(missed) if len(missed) else math.nan,
        "low": low,
        "high": high,
    }


def show_robust_column(scale: str = "reduced") -> Styler:
    """``robust_column`` for a notebook, in percent."""
    shown = robust_column(scale)
    for name in ("test", "robust", "strongest", "certified"):
        shown[name] = shown[name].map(format_percent)
    shown["beaten"] = [f"{row.beaten} of {row.missed}" for row in shown.itertuples()]
    shown["gap closed"] = [
        "–" if pd.isna(row.share) else f"{row.share:.0%} ({row.low:.0%} to {row.high:.0%})"
        for row in shown.itertuples()
    ]
    left_out = ["method", "data set", "missed", "share", "low", "high"]
    return shown.drop(columns=left_out).style.hide(axis="index")


def by_attack(scale: str = "reduced") -> pd.DataFrame:
    """The share of the missed images that each attack alone beats: rows are attacks, columns runs.

    Only attack records in which each attack met every image are included.
    """
    columns = {}
    for record in find_attacks(scale=scale):
        if record.each:
            flags = record.missed[list(record.attacks)]
            name = f"{record.run.experiment}, seed {record.run.seed}"
            columns[f"{name} (n = {len(flags)})"] = 1 - flags.mean()
    return pd.DataFrame(columns)
