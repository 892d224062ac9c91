"""The runs that a batch makes: runs/Snakefile takes them, and its final report, from here."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from linfdist import experiments, records
from linfdist.records.files import named
from linfdist.system import disk
from linfdist.system.names import unknown

# The keys of --config.
CONFIG_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "scale": "smoke, reduced or paper, or several: smoke,reduced",
        "seeds": "0, or several: 0,2 or 0-7",
        "train": "False to train nothing and render the recorded runs",
        "seconds": "time limit for training each run in this call; the same call continues",
        "device": "cpu, cuda, cuda:1",
    }
)


_WORK = ". LINFDIST_WORK sets this folder. Nothing was done yet."


class BatchError(ValueError):
    """The request for a batch is not valid."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One run that a batch plans."""

    name: str
    scale: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name}, {self.scale}, seed {self.seed}"

    @property
    def flag(self) -> Path:
        """The file that Snakemake treats as the run's output.

        Snakemake deletes and rewrites outputs, so a record is never an output. A flag without a
        record has no meaning.
        """
        return records.work_dir(self.name, self.scale, self.seed) / "recorded"

    @property
    def log(self) -> Path:
        """The output of the run's last call."""
        return self.flag.with_name("run.log")

    @property
    def record(self) -> Path:
        return records.run_dir(self.name, self.scale, self.seed)

    def state(self) -> str:
        """The state of a run without a record: the last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        lines = [line.strip() for line in lines if line.strip()]
        said = [line for line in lines if not line.startswith("To continue: ")]
        return f"{self}: {said[-1]}\n  {self.log}" if said else f"{self}: not started"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The scales and seeds of a call; ``seconds`` and ``device`` apply to each run."""

    scales: tuple[str, ...] = ("reduced",)
    seeds: tuple[int, ...] = (0,)
    train: bool = True
    seconds: float | None = None
    device: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The batch that ``--config`` describes; ``CONFIG_KEYS`` lists its keys.

        Raises:
            BatchError: a key is not in ``CONFIG_KEYS``, or a value is not valid for its key.
            UnknownName: there is no such scale.
        """
        for key in config:
            if key not in CONFIG_KEYS:
                raise BatchError(unknown("key of --config", key, CONFIG_KEYS))
        scales = tuple(_parts(config.get("scale", "reduced")))
        for scale in scales:
            experiments.check_scale(scale)
        train, seconds = config.get("train", True), config.get("seconds")
        if not isinstance(train, bool):
            raise BatchError(f"--config train must be True or False; got {train!r}.")
        if seconds is not None and not (_positive(seconds)):
            raise BatchError(f"--config seconds must be a number above 0; got {seconds!r}.")
        seeds = tuple(seed for part in _parts(config.get("seeds", 0)) for seed in _range(part))
        return cls(
            scales=scales, seeds=seeds, train=train, seconds=seconds, device=config.get("device")
        )

    def missing(self, names: Iterable[str], scales: Iterable[str] = ()) -> list[Wanted]:
        """The runs of these experiments that have no record, at ``scales`` or the batch's scales.

        Recorded runs are not in the list, so no option of Snakemake can make one run again.
        """
        wanted = [
            Wanted(name=name, scale=scale, seed=seed)
            for name in names
            for scale in scales or self.scales
            if scale in experiments.get(name).scales
            for seed in self.seeds
        ]
        missing = [run for run in wanted if self.train and not run.record.exists()]
        for run in missing:
            # The flag may be left from a record that was deleted.
            with named(run.flag, "be a file that can be deleted; deleting it failed", _WORK):
                disk.remove(run.flag)
        return missing

    @property
    def options(self) -> str:
        """The options that follow the scale and seed in every run's command."""
        given = {"--seconds": self.seconds, "--device": self.device}
        return " ".join(f"{name} {value}" for name, value in given.items() if value is not None)


def select(targets: Iterable[str]) -> list[str]:
    """The names of the experiments that ``targets`` select.

    A target is "all", a table or study, or one row, which may have "validation/" before its name.
    No targets select all experiments.

    Raises:
        UnknownName: a target is none of these.
    """
    groups = {"all": [*experiments.EXPERIMENTS], **tables()}
    groups |= {name: [name] for name in experiments.EXPERIMENTS}
    wanted = list(targets) or ["all"]
    for target in wanted:
        row = target.removeprefix(experiments.VALIDATION_PREFIX)
        if row in experiments.EXPERIMENTS:
            groups[target] = [target]
        if target not in groups:
            raise experiments.UnknownName(
                unknown("table or row", target, groups, experiments.LISTED)
            )
    return list(dict.fromkeys(name for target in wanted for name in groups[target]))


def without_braces(folder: Path) -> Path:
    """The folder itself; BatchError if its path has a brace, which a Snakefile cannot escape."""
    if {"{", "}"} & {*str(folder)}:
        raise BatchError(
            f"Snakemake reads braces in a path as wildcards; got {folder}. Set LINFDIST_WORK and "
            "LINFDIST_RUNS to folders without braces."
        )
    return folder


def tables() -> dict[str, list[str]]:
    """The experiments of each table or study: "table1" -> ["table1/mnist_net", ...]."""
    by_table: dict[str, list[str]] = {}
    for name in experiments.EXPERIMENTS:
        by_table.setdefault(name.partition("/")[0], []).append(name)
    return by_table


def _positive(value: Any) -> bool:
    """Whether ``value`` is a finite number above 0."""
    return type(value) in (int, float) and 0 < value < math.inf


def _parts(value: Any) -> list[str]:
    parts = value if isinstance(value, list) else str(value).split(",")
    return [str(part).strip() for part in parts]


def _range(text: str) -> range:
    first, dash, last = text.partition("-")
    whole = first.isdecimal() and (last.isdecimal() or not dash)
    seeds = range(int(first), int(last or first) + 1) if whole else range(0)
    if not seeds:
        raise BatchError(f"--config seeds must be whole numbers: 0 or 0,2 or 0-7; got {text!r}.")
    return seeds
