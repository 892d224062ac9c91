"""Every quantitative claim of the paper beside the recorded number, with a rule-based verdict."""

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

import pandas as pd
import torch

from linfdist import data, experiments, records
from linfdist.bench import epochs_file
from linfdist.experiments import (
    Comparison,
    Experiment,
    QuotedRow,
    Table,
    TimingTable,
    comparisons,
    runner,
)
from linfdist.experiments.tables import TimedRow
from linfdist.report.comparisons import difference
from linfdist.report.formats import PRINTED, parse_flops
from linfdist.report.results import noted_scale, results_of


class Verdict(StrEnum):
    """What the ledger says about a claim; ``ledger`` states the rule."""

    REPRODUCED = "reproduced"
    EXCEEDED = "exceeded"
    REPRODUCED_AT_REDUCED_SCALE = "reproduced at reduced scale"
    WITHIN_NOISE = "within noise"
    NOT_REPRODUCED = "not reproduced"
    NOT_YET_RUN = "not yet run"
    QUOTED = "quoted"


# (clean, robust and certified). Twice the standard deviation of eight runs that the paper's authors
# log for the successor of this method. They do not log Fashion-MNIST, which takes CIFAR-10's.
TOLERANCES = {
    "mnist": (0.0014, 0.0018),
    "fashion_mnist": (0.0082, 0.0070),
    "cifar10": (0.0082, 0.0070),
    "tinyimagenet": (0.0040, 0.0044),
}
QUARTER = 0.25  # tolerance of a ratio of times, relative to it
POINT = 0.01  # a smaller difference is noise, even from a single seed

LEDGER_COLUMNS = (
    *("kind", "table", "claim", "paper", "here", "sd", "n", "scale", "tolerance"),
    *("minutes", "device", "commit", "runs", "verdict"),
)


def ledger() -> pd.DataFrame:
    """One row per number and per comparison that the paper prints about the rows of its tables.

    Columns:

    - "kind": "accuracy", "difference" (of two rows that the text compares), "time" or "FLOPs".
    - "paper", "here", "sd", "tolerance": the printed number, the recorded one, its standard
      deviation over n seeds, and the tolerance. Accuracies and differences are fractions of the
      images, times are ratios, FLOPs are counts.
    - "n": the number of seeds; for a time, the number of rounds.
    - "scale": "paper" if the row is recorded at that scale, else "reduced". A note of missing
      classes may follow; a claim with such a note is not judged.
    - "minutes": the time of one seed.
    - "runs": the folders of the records.

    The verdict follows from these columns alone:

    - An accuracy is judged at the paper's scale only. It is "reproduced" within the tolerance
      (twice the standard deviation of such runs), "exceeded" above it, "not reproduced" below it.
    - A difference of two rows that share a method is judged at the reduced scale too. A difference
      of two methods is judged at the paper's scale only, because their reduced budgets differ. It
      is "within noise" if it is smaller than the tolerance: twice its standard deviation, and at
      least one percentage point. Otherwise it is "reproduced" (or "reproduced at reduced scale") if
      it has the printed sign, and "not reproduced" if it has the opposite sign.
    - The time of a training epoch, as a multiple of IBP's, is judged on a GPU. It is "reproduced"
      within a quarter of the printed ratio.
    - FLOPs need no run. They are "reproduced" if they round to the printed digits.
    - "not yet run": there is no record at a scale that decides.
    - "quoted": the paper quotes the number from other work, and it is not rerun here.
    """
    rows = [*_accuracies(), *_differences(), *_times(), *_flops()]
    return pd.DataFrame(rows, columns=list(LEDGER_COLUMNS))


def headlines() -> list[str]:
    """The claims of the paper's abstract and introduction: certified accuracy of Net+MLP."""
    names = ("mnist", "fashion_mnist", "cifar10")
    rows = [*(f"table1/{name}_net_mlp" for name in names), "table2/tinyimagenet_net_mlp"]
    return [_accuracy_claim(experiments.get(row), "certified") for row in rows]


def _accuracy_claim(row: Experiment | QuotedRow, name: str) -> str:
    switches = [f"{key} {value}" for key, value in getattr(row, "switches", {}).items()]
    said = [data.DATASETS[row.dataset].title, row.title, *switches]
    return f"{', '.join(said)}: {name}"


def _accuracies() -> Iterator[dict[str, object]]:
    for table in experiments.tables_of(Table):
        rows: tuple[Experiment | QuotedRow, ...] = (*table.quoted, *table.rows)
        for row in rows:
            for name, key in PRINTED.items():
                paper = getattr(row.paper, key)
                if paper is None:
                    continue
                cells = {
                    "kind": "accuracy",
                    "table": table.number,
                    "claim": _accuracy_claim(row, name),
                    "paper": paper,
                }
                if isinstance(row, QuotedRow):
                    yield cells | {"verdict": Verdict.QUOTED}
                    continue
                tolerance = TOLERANCES[row.dataset][name in ("robust", "certified")]
                yield cells | {"tolerance": tolerance} | _judged(row, name, paper, tolerance)


def _judged(row: Experiment, name: str, paper: float, tolerance: float) -> dict[str, object]:
    """The recorded cells of one accuracy, and its verdict."""
    scale, runs = _best(row)
    if not runs:
        return {"n": 0, "verdict": Verdict.NOT_YET_RUN}
    results = results_of(runs)
    excess = results[name] - paper
    near = abs(excess) <= tolerance + 1e-9  # 1e-9: both are rounded decimals
    outside = Verdict.EXCEEDED if excess > 0 else Verdict.NOT_REPRODUCED
    verdict = Verdict.REPRODUCED if near else outside
    scale = noted_scale(row, scale, runs)
    return {
        "here": results[name],
        "sd": results[f"{name} sd"],
        "n": len(runs),
        "scale": scale,
        "verdict": verdict if scale == "paper" else Verdict.NOT_YET_RUN,
        **_provenance(runs),
    }


def _best(*rows: Experiment) -> tuple[str, list[records.Run]]:
    """The scale at which all rows are recorded (the paper's, if possible), and all their runs."""
    for scale in ("paper", "reduced"):
        by_row = [records.find_runs(row.name, scale) for row in rows]
        if all(by_row):
            return scale, [run for runs in by_row for run in runs]
    return "", []


def _provenance(runs: Sequence[records.Run]) -> dict[str, object]:
    """The cost of one seed of every row, and the devices, commits and folders of the runs."""
    per_row = pd.Series([run.seconds for run in runs]).groupby([run.experiment for run in runs])
    return {
        "minutes": per_row.mean().sum() / 60,
        "device": ", ".join(sorted({run.environment["device"] for run in runs})),
        "commit": ", ".join(sorted({_commit(run.environment) for run in runs})),
        "runs": tuple(run.path.relative_to(records.runs_dir()).as_posix() for run in runs),
    }


def _commit(environment: Mapping[str, Any]) -> str:
    """The commit's first digits; "unknown" if the code did not run from its own checkout."""
    return (environment["commit"] or "unknown")[:7]


def _differences() -> Iterator[dict[str, object]]:
    for comparison in comparisons.COMPARISONS:
        name = comparison.after.name.partition("/")[0]  # "table1"
        number = int(name.removeprefix("table"))
        yield _difference_claim(number, comparison.title, comparison)
    for table in experiments.tables_of(Table):
        for comparison in table.comparisons:
            after = comparison.after
            said = data.DATASETS[after.dataset].title, after.title, comparison.title
            yield _difference_claim(table.number, ", ".join(said), comparison)


def _difference_claim(number: int, title: str, comparison: Comparison) -> dict[str, object]:
    cells = {
        "kind": "difference",
        "table": number,
        "claim": f"{title}: {comparison.accuracy}",
    }
    return cells | _judged_difference(comparison)


def _judged_difference(comparison: Comparison) -> dict[str, object]:
    rows = [row for row in (comparison.before, comparison.after) if isinstance(row, Experiment)]
    scale, runs = _best(*rows)
    effect = difference(comparison, scale or "reduced")
    cells: dict[str, object] = {"paper": effect["paper"], "n": 0, "verdict": Verdict.NOT_YET_RUN}
    if math.isnan(effect["here"]):
        return cells
    tolerance = max(POINT, 0.0 if math.isnan(effect["sd"]) else 2 * effect["sd"])
    cells |= {"here": effect["here"], "sd": effect["sd"], "n": effect["seeds"]}
    recorded = records.find_runs(comparison.after.name, scale)
    scale = noted_scale(comparison.after, scale, recorded)
    cells |= {"scale": scale, "tolerance": tolerance, **_provenance(runs)}
    same_method = comparison.before.title == comparison.after.title
    if scale != "paper" and not same_method:
        return cells
    if abs(effect["here"]) < tolerance:
        return cells | {"verdict": Verdict.WITHIN_NOISE}
    if effect["here"] * effect["paper"] < 0:
        return cells | {"verdict": Verdict.NOT_REPRODUCED}
    if scale == "paper":
        return cells | {"verdict": Verdict.REPRODUCED}
    return cells | {"verdict": Verdict.REPRODUCED_AT_REDUCED_SCALE}


def _times() -> Iterator[dict[str, object]]:
    recorded = epochs_file.recorded_times("paper")
    recorded.sort(key=lambda times: "cuda" in times.environment["backend"])
    for table in experiments.tables_of(TimingTable):
        for row in table.rows:
            paper = table.paper_ratio(row)
            if paper is None or row is table.reference:
                continue
            cells = {
                "kind": "time",
                "table": table.number,
                "claim": f"CIFAR-10, {row.experiment.title}: epoch, of IBP's",
                "paper": paper,
                "tolerance": paper * QUARTER,
                "verdict": Verdict.NOT_YET_RUN,
            }
            yield cells | (_judged_time(row, paper, recorded[-1]) if recorded else {})


def _judged_time(row: TimedRow, paper: float, times: epochs_file.EpochTimes) -> dict[str, object]:
    """The recorded cells of one time, and its verdict if a GPU was timed."""
    here = times.summary().loc[row.experiment.name, "ratio"]
    cells = {
        "here": here,
        "n": times.rounds,
        "scale": "paper",
        "device": times.device,
        "commit": _commit(times.environment),
    }
    if "cuda" not in times.environment["backend"]:
        return cells
    near = abs(here - paper) <= paper * QUARTER
    return cells | {"verdict": Verdict.REPRODUCED if near else Verdict.NOT_REPRODUCED}


def _flops() -> Iterator[dict[str, object]]:
    for table in experiments.tables_of(Table):
        for row in table.rows:
            if not row.paper.flops:
                continue
            info = data.DATASETS[row.dataset]
            with torch.device("meta"):  # shapes only, no weights
                flops = runner.counts(runner.build(row.scales["paper"], info, 0))["flops"]
            paper, tolerance = parse_flops(row.paper.flops)
            near = abs(flops - paper) <= tolerance
            yield {
                "kind": "FLOPs",
                "table": table.number,
                "claim": f"{info.title}, {row.title}: FLOPs",
                "paper": paper,
                "here": flops,
                "scale": "paper",
                "tolerance": tolerance,
                "verdict": Verdict.REPRODUCED if near else Verdict.NOT_REPRODUCED,
            }
