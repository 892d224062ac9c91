"""Check what each file of a record holds, and that the files agree; RecordError names the error.

Checksums alone do not protect a record: somebody can edit it and compute new checksums. Derived
values are therefore derived again:

- the metrics from the certificates;
- the number of images and epochs from the setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from linfdist.data import DATASETS, VALIDATION_IMAGES
from linfdist.records.files import RecordError
from linfdist.records.metrics import accuracies
from linfdist.records.run import Run

# The number of test images of each data set. For TinyImageNet, which may lack some classes, it is
# the number per class.
TEST_IMAGES: Mapping[str, int] = {
    "mnist": 10_000,
    "fashion_mnist": 10_000,
    "cifar10": 10_000,
    "tinyimagenet": 50,
    "digits": 357,
}
# The number of training images, counted in the same way. At most a tenth is kept for validation.
TRAIN_IMAGES: Mapping[str, int] = {
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "tinyimagenet": 500,
    "digits": 1_440,
}
NUMBER = (int, float)
OR_NONE = type(None)
SUMMARY = {
    "experiment": str,
    "scale": str,
    "seed": int,
    "seconds": NUMBER,
    "weights_sha256": str,
    "metrics": dict,
}
CONFIG = {"setting": dict, "num_classes": int, "parameters": int, "flops": int}
SETTING = {"dataset": str, "eps": str, "net": dict, "train": dict}
ENVIRONMENT = {
    "commit": (str, OR_NONE),
    "dirty": (bool, OR_NONE),
    "versions": dict,
    "platform": str,
    "device": str,
    "threads": int,
    "backend": str,
    "training_seconds": NUMBER,
    "evaluation_seconds": NUMBER,
    "peak_memory_mb": NUMBER,
}
FLAGS = ("certified_interval", "survived_pgd")
# Pairs of radius and flag. A column has a value for every image, or for none.
PAIRS = (("margin_radius", "certified_margin"), ("sound_radius", "certified_sound"))
RECORDED_COLUMNS = ("index", "label", "predicted", *PAIRS[0], "interval_radius", *FLAGS)


def check_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Check the keys and types of metrics.json. ``check_tables`` derives its metrics again."""
    if summary.keys() != SUMMARY.keys():
        raise RecordError(
            f"{path} must have the keys of a run; it has {', '.join(summary)}. Restore it."
        )
    _check_types(path, summary, SUMMARY)
    _check_types(path, summary["metrics"], dict.fromkeys(summary["metrics"], NUMBER))


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Check the parts of config.json that tables and curves read."""
    _check_types(path, config, CONFIG)
    setting = config["setting"]
    _check_types(path, setting, SETTING)
    epochs = setting["train"].get("epochs")
    images = setting.get("test_images")
    try:
        eps = Fraction(setting["eps"])
    except (ValueError, ZeroDivisionError):
        eps = Fraction(-1)
    checks = {
        "dataset": setting["dataset"] in DATASETS,
        "eps": eps >= 0,
        "epochs": isinstance(epochs, list) and all(_is(number, int) for number in epochs),
        "test_images": images is None or (_is(images, int) and images > 0),
        "num_classes": config["num_classes"] > 0,
    }
    wrong = [name for name, right in checks.items() if not right]
    if wrong:
        raise RecordError(f"{path} has an impossible value in {', '.join(wrong)}. Restore it.")


def check_environment(path: Path, environment: Mapping[str, Any]) -> None:
    """Check the keys and types of environment.json."""
    _check_types(path, environment, ENVIRONMENT)


def count_of_images(
    dataset: str, num_classes: int, taken: int | None, *, validation: bool = False
) -> int:
    """The number of images a run is tested on: ``taken``, or all test or validation images."""
    if taken is not None:
        return taken
    classes = num_classes if dataset == "tinyimagenet" else 1
    if validation:
        return min(VALIDATION_IMAGES, TRAIN_IMAGES[dataset] * classes // 10)
    return TEST_IMAGES[dataset] * classes


def check_tables(run: Run) -> None:
    """Check the tables of certificates and epochs, and that the metrics follow from the former.

    Raises:
        RecordError: a column is missing, a value is impossible, or the number of images, the
            epochs or the metrics contradict the other files.
    """
    path, table = run.path / "certificates.csv", run.certificates
    _check_columns(path, table, run.config["num_classes"])
    setting = run.config["setting"]
    wanted = count_of_images(
        setting["dataset"],
        run.config["num_classes"],
        setting.get("test_images"),
        validation=setting.get("validation", False),
    )
    if len(table) != wanted:
        raise RecordError(
            f"{path} must have a row for each of the {wanted} test images; it has {len(table)}. "
            "Restore it."
        )
    derived = accuracies(table)
    if derived.keys() != run.metrics.keys() or any(
        abs(derived[name] - value) > 1e-9 for name, value in run.metrics.items()
    ):
        raise RecordError(
            f"{run.path / 'metrics.json'} must have the metrics that follow from certificates.csv, "
            f"{_listed(derived)}; it has {_listed(run.metrics)}. Restore both."
        )
    path, table = run.path / "epochs.csv", run.epochs
    wanted = sum(setting["train"]["epochs"])
    if table.get("epoch", pd.Series()).tolist() != [*range(1, wanted + 1)]:
        raise RecordError(
            f"{path} must have a row for each of the {wanted} epochs; it has {len(table)}. "
            "Restore it."
        )
    if "train_accuracy" not in table or not _between(table["train_accuracy"], 0, 1):
        raise RecordError(f"{path}: train_accuracy must hold fractions from 0 to 1. Restore it.")


def _check_columns(path: Path, table: pd.DataFrame, num_classes: int) -> None:
    missing = [name for name in RECORDED_COLUMNS if name not in table]
    missing += [name for name in PAIRS[1] if name not in table and {*PAIRS[1]} & {*table}]
    if missing:
        raise RecordError(f"{path} lacks the columns {', '.join(missing)}. Restore it.")
    wrong = [] if table["index"].tolist() == [*range(len(table))] else ["index"]
    wrong += [name for name in FLAGS if not table[name].isin([0, 1]).all()]
    if not _between(table["interval_radius"], 0, math.inf):
        wrong.append("interval_radius")
    for name in ("label", "predicted"):
        whole = pd.api.types.is_integer_dtype(table[name])
        if not (whole and table[name].between(0, num_classes - 1).all()):
            wrong.append(name)
    for radius, flag in PAIRS:
        if flag not in table or (table[radius].isna().all() and table[flag].isna().all()):
            continue
        if not _between(table[radius], 0, math.inf):
            wrong.append(radius)
        if not table[flag].isin([0, 1]).all():
            wrong.append(flag)
    if wrong:
        raise RecordError(f"{path} has an impossible value in {', '.join(wrong)}. Restore it.")


def _between(numbers: pd.Series, low: float, high: float) -> bool:
    """Whether all values are finite numbers in [low, high]; False if a value is missing."""
    if not pd.api.types.is_numeric_dtype(numbers):
        return False
    return bool((numbers.between(low, high) & (numbers.abs() < math.inf)).all())


def _check_types(path: Path, content: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    lacking = [name for name in types if name not in content]
    if lacking:
        raise RecordError(f"{path} lacks {', '.join(lacking)}. Restore it.")
    wrong = [name for name, kind in types.items() if not _is(content[name], kind)]
    if wrong:
        raise RecordError(
            f"{path} has a value of the wrong type in {', '.join(wrong)}. Restore it."
        )


def _is(value: Any, kind: Any) -> bool:
    """``isinstance`` for JSON: a bool is not a number, nor is an integer above 2**63 in size."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, bool):
        return bool in kinds
    if isinstance(value, int) and abs(value) > 2**63:
        return False
    return isinstance(value, kinds)


def _listed(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
