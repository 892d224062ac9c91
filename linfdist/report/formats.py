"""Numbers as papers print them."""

import math
from fractions import Fraction

import pandas as pd

ACCURACIES = {
    "test": "clean_accuracy",
    "robust": "pgd_accuracy",
    "certified": "certified_accuracy",
}
PRINTED = {"train": "train_accuracy", **ACCURACIES}  # all that a table may print


def with_percents(numbers: pd.DataFrame) -> pd.DataFrame:
    """Format the measured columns as text: means in percent, followed by the standard deviation."""
    measured = [name for name in PRINTED if name in numbers]
    shown = numbers.drop(columns=[f"{name} sd" for name in measured])
    for name in measured:
        shown[name] = [
            _measured(mean, sd)
            for mean, sd in zip(numbers[name], numbers[f"{name} sd"], strict=True)
        ]
    shown["seeds"] = numbers["seeds"].map(_integer)
    shown["epochs"] = numbers["epochs"].map(_integer)
    shown["minutes"] = numbers["minutes"].map(lambda n: "" if pd.isna(n) else f"{n:.1f}")
    return shown


def format_percent(fraction: float | None) -> str:
    return "–" if fraction is None or pd.isna(fraction) else f"{100 * fraction:.2f}"


def _measured(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return ""
    return format_percent(mean) if pd.isna(sd) else f"{format_percent(mean)} ± {100 * sd:.2f}"


def _integer(number: float) -> str:
    return "" if pd.isna(number) else f"{number:.0f}"


def format_flops(flops: float) -> str:
    """Three digits and a unit: 82708480 -> "82.7M"."""
    scaled = float(f"{flops:.3g}")
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if scaled >= unit:
            digits = 2 - int(math.log10(scaled / unit))
            return f"{scaled / unit:.{digits}f}{name}"
    return f"{scaled:.0f}"


def parse_flops(printed: str) -> tuple[float, float]:
    """The count that "82.7M" stands for, and half a unit of its last digit."""
    number, unit = printed[:-1], {"G": 1e9, "M": 1e6, "k": 1e3}[printed[-1]]
    decimals = len(number.partition(".")[2])
    return float(number) * unit, 0.5 * 10**-decimals * unit


def format_pixels(value: Fraction) -> str:
    """A radius as papers write it: "0.3" if three decimals are exact, else as in "8/255"."""
    if (value * 1000).denominator == 1:
        return f"{float(value):g}"
    return f"{float(value * 255):g}/255"
