"""The record of an attack on a run, stored beside the run: attacks.csv and attacks.json."""

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import pandas as pd

from linfdist.records.files import (
    RecordError,
    read_sealed,
    read_text,
    replace_file,
    sealed_text,
    try_file,
)
from linfdist.records.metrics import certified, eps_of
from linfdist.records.run import Run
from linfdist.records.store import RunExists, find_runs

TABLE, SUMMARY = "attacks.csv", "attacks.json"
ATTACK_COLUMNS = ("index", "label", "certified_interval")


@dataclass(frozen=True, kw_only=True)
class AttackRecord:
    """One recorded attack on a run. All accuracies are fractions of the first ``images`` images.

    The attacks were run on every image that survived PGD-20 and has no certificate, and on some
    certified images.

    Args:
        run: the attacked run.
        eps: the radius of the attacks, in pixels.
        images: the number of test images that were considered, counted from the first.
        certified: the number of certified images that were attacked.
        each: True if every attack was run on every attacked image; False if an attack was run only
            on the images that no earlier attack had beaten.
        seed: the seed of the attacks.
        attacks: the settings of each attack by its name, in the order in which the attacks ran.
        seconds: the duration of each attack by its name.
        environment: where the attacks were run.
        weights_sha256: the SHA-256 of the attacked weights.
        table_sha256: the SHA-256 of attacks.csv.
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
        """One row per attacked image.

        The columns are:

        - ``ATTACK_COLUMNS``;
        - one flag per attack: 1 if the image survived it, 0 if not. The flag is missing if the
          attack was not tried because an earlier attack had beaten the image;
        - ``beaten_by``: the first attack that beat the image; missing if no attack did;
        - ``certified``: the current ``records.certified`` of the run. attacks.csv does not hold
          this column.

        Raises:
            RecordError: attacks.csv has changed, or contradicts attacks.json or the run.
        """
        path = self.run.path / TABLE
        text = read_text(path)
        if hashlib.sha256(text.encode()).hexdigest() != self.table_sha256:
            raise RecordError(
                f"{path} must have the SHA-256 that {SUMMARY} names, {self.table_sha256}; it has "
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
        """The images that survived PGD-20 but have no certificate: their robustness is open."""
        return self.table[~self.table["certified"]]

    @property
    def unsound(self) -> pd.DataFrame:
        """Certified images that an attack beat. If there are any, a certificate is wrong."""
        return self.table[self.table["certified"] & self.table["beaten_by"].notna()]

    def accuracies(self) -> dict[str, float]:
        """The accuracies by name, as fractions of the first ``images`` test images.

        The names are:

        - "clean";
        - "pgd": the run's own PGD-20;
        - the name of each attack, if ``each``: images that survive both the attack and the run's
          PGD-20;
        - "strongest": images that survive PGD-20 and all attacks;
        - "certified".
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


def _contradiction(record: AttackRecord, table: pd.DataFrame) -> str:
    """Describe how attacks.csv contradicts its summary, itself or the run; "" if it does not."""
    first, names = record.run.certificates[: record.images], [*record.attacks]
    if [*table] != [*ATTACK_COLUMNS, *names, "beaten_by"]:
        return f"its columns are {', '.join(table)}"
    if not (table["index"].isin(first["index"]) & (table["index"].diff().fillna(1) > 0)).all():
        return "an index occurs twice, or belongs to an image outside the attacked set"
    for name in ("label", "certified_interval"):
        if table[name].tolist() != first.loc[table["index"], name].tolist():
            return f"{name} differs from the run's"
    open_ = first[(first["survived_pgd"] == 1) & (first["certified_interval"] == 0)]
    if not open_["index"].isin(table["index"]).all():
        return "an image that PGD-20 missed and that is not certified has no row"
    if record.certified != int(table["certified_interval"].sum()):
        return f"it does not have the {record.certified} certified images"
    beaten = pd.Series(None, index=table.index, dtype=object)
    for name in names:
        flags, met = table[name], beaten.isna() | record.each
        if not (flags[met].isin([0, 1]).all() and flags[~met].isna().all()):
            return f"{name} must be 0 or 1 where the attack was tried, and empty elsewhere"
        beaten[beaten.isna() & (flags == 0)] = name
    said = table["beaten_by"].astype(object)
    if beaten.where(beaten.notna(), "").tolist() != said.where(said.notna(), "").tolist():
        return "beaten_by is not the first attack that beat the image"
    return ""


def try_attack(run: Run) -> None:
    """Raise RecordError unless an attack on the run can be recorded. Call this before attacking."""
    for name in (TABLE, SUMMARY):
        try_file(run.path / name)


def refuse_attack(run: Run) -> None:
    """Raise RunExists if an attack on the run is already recorded."""
    if (run.path / SUMMARY).exists():
        raise RunExists(
            f"{run.path / SUMMARY} already exists: a run is attacked only once. Delete it and "
            f"{TABLE} to attack the run again."
        )


def write_attack(run: Run, table: pd.DataFrame, summary: dict[str, Any]) -> AttackRecord:
    """Record an attack on a run.

    attacks.json is written last and atomically: the attack counts as recorded once it exists.
    ``summary`` has the fields of ``AttackRecord`` except ``run``, ``weights_sha256`` and
    ``table_sha256``.

    Raises:
        RunExists: an attack on the run is already recorded.
    """
    refuse_attack(run)
    text = table.astype(dict.fromkeys(summary["attacks"], "Int8")).to_csv(index=False)
    summary = {
        **summary,
        "weights_sha256": run.weights_sha256,
        "table_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    replace_file(run.path / TABLE, text)
    replace_file(run.path / SUMMARY, sealed_text(summary))
    return read_attack(run)


def read_attack(run: Run) -> AttackRecord:
    """Read the attack that is recorded beside a run.

    Raises:
        RecordError: no attack is recorded, its record is damaged, or it attacked other weights.
    """
    path = run.path / SUMMARY
    if not path.is_file() or not path.with_name(TABLE).is_file():
        raise RecordError(
            f"{run.path} must hold {TABLE} and {SUMMARY}. Attack the run: python -m linfdist "
            f"attack {run.experiment} --scale {run.scale} --seed {run.seed}"
        )
    try:
        summary = read_sealed(path)
        record = AttackRecord(run=run, **summary | {"eps": Fraction(summary["eps"])})
        _check(record)
    except (TypeError, LookupError, ValueError, ArithmeticError, AttributeError) as error:
        raise RecordError(
            f"{path} is not the summary of an attack: {error}. Restore it."
        ) from error
    if record.weights_sha256 != run.weights_sha256:
        raise RecordError(
            f"{path} must belong to the run's weights, {run.weights_sha256}; it belongs to "
            f"{record.weights_sha256}. Delete it and {TABLE}, and attack the run again."
        )
    return record


def _check(record: AttackRecord) -> None:
    """Raise ValueError if the summary contradicts itself or the run."""
    if record.eps != eps_of(record.run):
        raise ValueError(f"its eps is {record.eps}, not the run's")
    if not 1 <= record.images <= len(record.run.certificates):
        raise ValueError(f"its number of images is {record.images!r}")
    if not (record.attacks and record.seconds.keys() == record.attacks.keys()):
        raise ValueError("seconds must have a number for each of attacks")
    if not all(isinstance(one, int | float) for one in record.seconds.values()):
        raise ValueError("seconds must be numbers")
    if not isinstance(record.each, bool):
        raise ValueError(f"each is {record.each!r}")


def find_attacks(
    names: Iterable[str] | None = None, scale: str | None = None
) -> list[AttackRecord]:
    """Every recorded attack on the named experiments, or on all, in the order of ``find_runs``."""
    runs = [run for name in names or (None,) for run in find_runs(name, scale)]
    return [read_attack(run) for run in runs if (run.path / SUMMARY).exists()]
