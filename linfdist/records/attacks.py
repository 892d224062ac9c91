"""The record of a hunt for adversarial images, beside the run that it attacked."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import pandas as pd

from linfdist.records.files import RecordError, replace_file, sealed_text, try_file
from linfdist.records.metrics import certified, eps_of
from linfdist.records.run import Run, read_sealed, read_text
from linfdist.records.store import RunExists, find_runs

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
        """A row an attacked image: ``COLUMNS``, a flag an attack, beaten_by and "certified".

        The flags say whether the image survived, missing where it was beaten before; ``beaten_by``
        is the first attack that beat it, missing where none did. "certified", which the file has
        not, is ``records.certified`` of the run, as it is now.

        Raises:
            RecordError: the file has changed, or contradicts attacks.json or the run.
        """
        path = self.run.path / TABLE
        text = read_text(path)
        if hashlib.sha256(text.encode()).hexdigest() != self.table_sha256:
            raise RecordError(
                f"{path} must have the SHA-256 that {SUMMARY} says, {self.table_sha256}; it has "
                "another. Restore both from version control."
            )
        try:
            table = pd.read_csv(io.StringIO(text))
            wrong = _contradiction(self, table)
        except (ValueError, LookupError, TypeError) as error:
            wrong = str(error)
        if wrong:
            raise RecordError(
                f"{path} must agree with {SUMMARY} and the run; it does not: {wrong}. Restore all "
                "from version control, or delete both files and attack the run again."
            )
        return table.assign(certified=certified(self.run)[table["index"]].to_numpy())

    @property
    def missed(self) -> pd.DataFrame:
        """The images that PGD-20 missed and no certificate covers: which way they fall is open."""
        return self.table[~self.table["certified"]]

    @property
    def unsound(self) -> pd.DataFrame:
        """Certified images that an attack beat: none, or a certificate is wrong."""
        return self.table[self.table["certified"] & self.table["beaten_by"].notna()]

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
            "certified": int(certified(self.run)[: self.images].sum()),
        }
        return {name: count / self.images for name, count in counts.items()}


def _contradiction(found: Attacked, table: pd.DataFrame) -> str:
    """Where attacks.csv contradicts its summary, itself or the run: what is wrong, or ""."""
    first, names = found.run.certificates[: found.images], [*found.attacks]
    if [*table] != [*COLUMNS, *names, "beaten_by"]:
        return f"its columns are {', '.join(table)}"
    if not (table["index"].isin(first["index"]) & (table["index"].diff().fillna(1) > 0)).all():
        return "an index is twice there, or of no image that was looked at"
    for name in ("label", "certified_interval"):
        if table[name].tolist() != first.loc[table["index"], name].tolist():
            return f"{name} is not that of the run"
    open_ = first[(first["survived_pgd"] == 1) & (first["certified_interval"] == 0)]
    if not open_["index"].isin(table["index"]).all():
        return "an image that PGD-20 missed and that is not certified has no row"
    if found.certified != int(table["certified_interval"].sum()):
        return f"it has not the {found.certified} certified images"
    beaten = pd.Series(None, index=table.index, dtype=object)
    for name in names:
        flags, met = table[name], beaten.isna() | found.each
        if not (flags[met].isin([0, 1]).all() and flags[~met].isna().all()):
            return f"{name} must be 0 or 1 where it was tried, and empty elsewhere"
        beaten[beaten.isna() & (flags == 0)] = name
    said = table["beaten_by"].astype(object)
    if beaten.where(beaten.notna(), "").tolist() != said.where(said.notna(), "").tolist():
        return "beaten_by is not the first attack that beat the image"
    return ""


def try_attacked(run: Run) -> None:
    """RecordError unless a hunt on the run can be recorded: called before the attacks."""
    for name in (TABLE, SUMMARY):
        try_file(run.path / name)


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
        _check(found)
    except (TypeError, LookupError, ValueError, ArithmeticError, AttributeError) as error:
        raise RecordError(f"{path} is not the summary of a hunt: {error}. Restore it.") from error
    if found.weights_sha256 != run.weights_sha256:
        raise RecordError(
            f"{path} must be of the run's weights, {run.weights_sha256}; it is of "
            f"{found.weights_sha256}. Delete it and {TABLE}, and attack the run again."
        )
    return found


def _check(found: Attacked) -> None:
    """ValueError where a summary contradicts itself or the run."""
    if found.eps != eps_of(found.run):
        raise ValueError(f"its eps is {found.eps}, not that of the run")
    if not 1 <= found.images <= len(found.run.certificates):
        raise ValueError(f"it says {found.images!r} images")
    if not (found.attacks and found.seconds.keys() == found.attacks.keys()):
        raise ValueError("seconds must have a number for each of attacks")
    if not all(isinstance(one, int | float) for one in found.seconds.values()):
        raise ValueError("seconds must be numbers")
    if not isinstance(found.each, bool):
        raise ValueError(f"each is {found.each!r}")


def find_attacked(names: Iterable[str] | None = None, scale: str | None = None) -> list[Attacked]:
    """Every recorded hunt, on these experiments or on all, in the order of ``find_runs``."""
    runs = [run for name in names or (None,) for run in find_runs(name, scale)]
    return [read_attacked(run) for run in runs if (run.path / SUMMARY).exists()]
