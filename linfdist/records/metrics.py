"""What "certified" means of a recorded image, decided here alone; and the accuracies of a run."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from linfdist.records.run import Run


def is_sound(certificates: pd.DataFrame) -> bool:
    """Whether the sound columns decide: every image has a verdict in them."""
    sound = certificates.get("certified_sound")
    return sound is not None and bool(sound.notna().all())


def certified(run: Run) -> pd.Series:
    """Of each test image, as bools: whether it is certified at the run's eps.

    By the sound column where the run has it for every image, else by the interval column.
    """
    return _flags(run.certificates) == 1


def certified_radii(run: Run) -> pd.Series:
    """Of each test image, in pixels: the radius that the same bounds certify.

    A radius is at least ``float(eps)`` if and only if the image is ``certified``. The file has
    radii rounded down, so that at eps itself the verdict decides. 0 where the net is wrong.
    """
    images, eps = run.certificates, float(eps_of(run))
    column = "sound_radius" if is_sound(images) else "interval_radius"
    radii = images[column].astype(float)
    return radii.clip(lower=eps).where(certified(run), radii.clip(upper=np.nextafter(eps, -1)))


def eps_of(run: Run) -> Fraction:
    """The radius that a run was evaluated at, in pixels."""
    return Fraction(run.config["setting"]["eps"])


def accuracies(certificates: pd.DataFrame) -> dict[str, float]:
    """The metrics of a run, means over its table of test images; none of an empty column.

    Certified are the images of ``certified_sound``; of ``certified_interval`` where a run has no
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
