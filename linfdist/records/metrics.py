"""The only definition of a "certified" image in a record, and the accuracies of a run."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd

from linfdist.records.run import Run


def is_sound(certificates: pd.DataFrame) -> bool:
    """Whether the sound columns decide, which they do if every image has a verdict in them."""
    sound = certificates.get("certified_sound")
    return sound is not None and bool(sound.notna().all())


def certified(run: Run) -> pd.Series:
    """For each test image, whether it is certified at the run's eps, as a bool.

    The sound column decides if it has a value for every image; otherwise the interval column does.
    """
    return _flags(run.certificates) == 1


def certified_radii(run: Run) -> pd.Series:
    """For each test image, its certified radius in pixels, by the same bounds as ``certified``.

    A radius is at least ``float(eps)`` if and only if the image is ``certified``. The file holds
    radii rounded down, so the verdict decides at eps itself. The radius of a misclassified image
    is 0.
    """
    images, eps = run.certificates, float(eps_of(run))
    column = "sound_radius" if is_sound(images) else "interval_radius"
    radii = images[column].astype(float)
    return radii.clip(lower=eps).where(certified(run), radii.clip(upper=np.nextafter(eps, -1)))


def eps_of(run: Run) -> Fraction:
    """The radius at which a run was evaluated, in pixels."""
    return Fraction(run.config["setting"]["eps"])


def accuracies(certificates: pd.DataFrame) -> dict[str, float]:
    """The metrics of a run: means over its test images. An empty column gives no metric.

    ``certified_accuracy`` counts ``certified_sound``, or ``certified_interval`` if the run has no
    sound certificates.
    """
    columns = {
        "clean_accuracy": certificates["predicted"] == certificates["label"],
        "pgd_accuracy": certificates["survived_pgd"],
        "certified_accuracy": _flags(certificates),
        "certified_accuracy_margin": certificates["certified_margin"],
    }
    return {name: float(flags.mean()) for name, flags in columns.items() if flags.notna().all()}


def _flags(certificates: pd.DataFrame) -> pd.Series:
    return certificates["certified_sound" if is_sound(certificates) else "certified_interval"]
