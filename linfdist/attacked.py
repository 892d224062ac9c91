"""The record of a hunt for adversarial images, beside the run that it attacked."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import pandas as pd

from linfdist.record_files import replace_file, sealed_text
from linfdist.recorded_run import read_sealed
from linfdist.records import RecordError, Run, RunExists, find_runs

TABLE, SUMMARY = "attacks.csv", "attacks.json"
COLUMNS = ("index", "label", "certified_interval")


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One hunt; accuracies are fractions of the first ``images`` test images of ``run``.

    ``attacks`` are the settings by name, in the order in which they ran; ``certified`` is how many
    certified images were attacked. The attacks met every image that PGD-20 missed and no
    certificate covers: each of them all of these if ``each``, else those that were left.
    """

    run: Run
    eps: Fraction
    images: int
    certified: int
    each: bool
    seed: int
    attacks: dict[str, dict[str, Any]]
    seconds: dict[str, float]
    environment: dict[str, Any]
    weights_sha256: str
    table_sha256: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row an attacked image: index, label, certified_interval, a flag an attack, beaten_by.

        The flags say whether the image survived, missing where it was beaten before; ``beaten_by``
        is the first attack that beat it, missing where none did. ``certified_interval`` is that of
        the run.
        """
        text = (self.run.path / TABLE).read_text(encoding="utf-8")
        if hashlib.sha256(text.encode()).hexdigest() != self.table_sha256:
            raise RecordError(
                f"{self.run.path / TABLE} must have the SHA-256 that {SUMMARY} says, "
                f"{self.table_sha256}; it has another. Restore both from version control."
            )
        table = pd.read_csv(io.StringIO(text))
        known = self.run.certificates["certified_interval"]
        return table.assign(certified_interval=known[table["index"]].to_numpy())

    @property
    def missed(self) -> pd.DataFrame:
        """The images that PGD-20 missed and no certificate covers: which way they fall is open."""
        return self.table[self.table["certified_interval"] == 0]

    @property
    def unsound(self) -> pd.DataFrame:
        """Certified images that an attack beat: none, or a certificate is wrong."""
        return unsound(self.table)

    def accuracies(self) -> dict[str, float]:
        """ "clean", "pgd" (the run's), each attack's name, "strongest" and "certified".

        That of an attack counts what survives both it and the run's PGD-20.
        """
        first = self.run.certificates[: self.images]
        pgd = int(first["survived_pgd"].sum())
        each = self.attacks if self.each else ()
        counts = {
            "clean": int((first["predicted"] == first["label"]).sum()),
            "pgd": pgd,
            **{name: pgd - int((self.table[name] == 0).sum()) for name in each},
            "strongest": pgd - int(self.table["beaten_by"].notna().sum()),
            "certified": int(first["certified_interval"].sum()),
        }
        return {name: count / self.images for name, count in counts.items()}


def unsound(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of certified images that an attack beat."""
    return table[(table["certified_interval"] == 1) & table["beaten_by"].notna()]


def refuse_attacked(run: Run) -> None:
    """RunExists if a hunt on the run is recorded."""
    if (run.path / SUMMARY).exists():
        raise RunExists(
            f"{run.path / SUMMARY} exists: a hunt is recorded once. Delete it and {TABLE} to "
            "attack the run again."
        )


def write_attacked(run: Run, table: pd.DataFrame, summary: dict[str, Any]) -> Attacked:
    """Record a hunt. It is there once attacks.json is, which comes last and in one piece.

    ``summary`` has the fields of ``Attacked`` but for the run, the weights and the checksum.

    Raises:
        RunExists: one is recorded already.
    """
    refuse_attacked(run)
    text = table.astype(dict.fromkeys(summary["attacks"], "Int8")).to_csv(index=False)
    summary = {
        **summary,
        "weights_sha256": run.weights_sha256,
        "table_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    replace_file(run.path / TABLE, text)
    replace_file(run.path / SUMMARY, sealed_text(summary))
    return read_attacked(run)


def read_attacked(run: Run) -> Attacked:
    """The hunt that is recorded beside a run.

    Raises:
        RecordError: there is none, it is damaged, or it is of other weights.
    """
    path = run.path / SUMMARY
    if not path.is_file() or not path.with_name(TABLE).is_file():
        raise RecordError(
            f"{run.path} must hold {TABLE} and {SUMMARY}. Attack the run: python -m linfdist "
            f"attack {run.experiment} --scale {run.scale} --seed {run.seed}"
        )
    try:
        summary = read_sealed(path)
        found = Attacked(run=run, **summary | {"eps": Fraction(summary["eps"])})
    except (TypeError, KeyError, ValueError) as error:
        raise RecordError(f"{path} is not the summary of a hunt: {error}. Restore it.") from error
    if found.weights_sha256 != run.weights_sha256:
        raise RecordError(
            f"{path} must be of the run's weights, {run.weights_sha256}; it is of "
            f"{found.weights_sha256}. Delete it and {TABLE}, and attack the run again."
        )
    return found


def find_attacked(names: Iterable[str] | None = None, scale: str | None = None) -> list[Attacked]:
    """Every recorded hunt, on these experiments or on all, in the order of ``find_runs``."""
    runs = [run for name in names or (None,) for run in find_runs(name, scale)]
    return [read_attacked(run) for run in runs if (run.path / SUMMARY).exists()]
