"""How far each recorded net certifies: curves, margins, and what attacks do to the rest."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

from linfdist import data, experiments, records
from linfdist.records import certified, certified_radii, eps_of
from linfdist.records.attacks import AttackRecord
from linfdist.records.run import Run

FATES = {
    "beaten by PGD-20": "#c0504d",
    "beaten by another attack": "#d9822b",
    "not beaten": "#8f8f8f",
    "certified": "#3f9c5a",
}
POINTS = 201  # radii at which a curve is drawn


def certified_at(runs: Sequence[Run], radii: Sequence[float]) -> pd.Series:
    """The fraction of images certified at each of the ``radii``, as a series indexed by radius.

    The fraction is the mean over the runs. At radius 0 it is the clean accuracy.
    """
    at = np.asarray(radii, dtype=float)
    shares = []
    for run in runs:
        largest = certified_radii(run).to_numpy()
        right = (run.certificates["predicted"] == run.certificates["label"]).to_numpy()
        held = (largest[:, None] >= at) & right[:, None]
        shares.append(held.mean(0))
    return pd.Series(np.mean(shares, axis=0), index=at)


def recorded_by_row(table: str, scale: str = "reduced") -> dict[str, list[Run]]:
    """The recorded runs of a table at a scale, keyed by row, in the order of the table."""
    experiments.check_scale(scale)
    names = [name for name in experiments.EXPERIMENTS if name.startswith(f"{table}/")]
    by_row = {name: records.find_runs(name, scale) for name in names}
    return {name: runs for name, runs in by_row.items() if runs}


def certified_shares(table: str, scale: str = "reduced") -> pd.DataFrame:
    """One row per recorded row: the fractions certified at 0, eps/2, eps and 2 eps.

    "paper at eps" is the paper's number at eps. It is missing where the run's data set or eps is
    not that of the paper's row.
    """
    columns = ("row", "data set", "eps", "seeds", "at 0", "at eps/2", "at eps", "at 2 eps")
    rows = []
    for name, runs in recorded_by_row(table, scale).items():
        eps = eps_of(runs[0])
        shares = certified_at(runs, [0.0, *(float(eps * part) for part in (Fraction(1, 2), 1, 2))])
        cells = (name, _dataset(runs), str(eps), len(runs), *shares)
        rows.append(dict(zip(columns, cells, strict=True)) | {"paper at eps": _paper(name, runs)})
    return pd.DataFrame(rows, columns=[*columns, "paper at eps"])


def plot_curves(table: str, scale: str = "reduced") -> Figure:
    """Certified accuracy against radius: one panel per data set and one line per row.

    A point in a line's colour is the paper's number for that row. The dotted line is eps.
    """
    return _panels(table, scale, _draw_curves)


def plot_margins(table: str, scale: str = "reduced") -> Figure:
    """Histograms of the radius that the margin certifies: one panel per data set, one line per row.

    Only rows whose logits are Lipschitz have a line. Misclassified images have no such radius and
    are left out, so the area under a line is the clean accuracy.
    """
    return _panels(table, scale, _draw_margins)


def fates(record: AttackRecord) -> pd.DataFrame:
    """One row per correctly classified image of an attack record: its radius and its fate at eps.

    - "radius": from ``records.certified_radii``. The true robust radius is at least this.
    - "fate": one of ``FATES``.
    - "gap": eps − radius for a beaten image, whose true radius is at most eps; otherwise missing.
    """
    images = record.run.certificates[: record.images]
    radii = certified_radii(record.run)[: record.images]
    others = record.table.set_index("index")["beaten_by"].dropna().index
    fate = pd.Series("not beaten", index=images["index"])
    fate[certified(record.run)[: record.images].to_numpy()] = "certified"
    fate[(images["survived_pgd"] == 0).to_numpy()] = "beaten by PGD-20"
    fate[others] = "beaten by another attack"
    beaten = fate.str.startswith("beaten").to_numpy()
    table = pd.DataFrame({"index": images["index"], "radius": radii, "fate": fate.to_numpy()})
    table["gap"] = (float(record.eps) - radii).where(beaten)
    return table[(images["predicted"] == images["label"]).to_numpy()].reset_index(drop=True)


def plot_fates(record: AttackRecord, ax: Axes) -> None:
    """Draw a histogram of radius / eps of the images not certified at eps, stacked by fate."""
    table = fates(record)
    share = table["radius"] / float(record.eps)
    colors = {fate: color for fate, color in FATES.items() if fate != "certified"}
    groups = [share[table["fate"] == fate] for fate in colors]
    ax.hist(
        groups,
        np.linspace(0, 1, 21).tolist(),
        stacked=True,
        histtype="stepfilled",
        color=list(colors.values()),
        label=list(colors),
    )
    ax.set(xlabel="certified radius / eps", ylabel="images", xlim=(0, 1))
    certified = int((table["fate"] == "certified").sum())
    name = f"{record.run.experiment}, seed {record.run.seed}"
    ax.set_title(f"{name} ({certified} more are certified)", fontsize=8)


def _dataset(runs: Sequence[Run]) -> str:
    return runs[0].config["setting"]["dataset"]


def _paper(name: str, runs: Sequence[Run]) -> float | None:
    """The certified accuracy that the paper prints, if its data set and radius are the run's."""
    row = experiments.get(name)
    eps = row.paper.certified_eps or row.eps
    same = row.dataset == _dataset(runs) and eps == eps_of(runs[0])
    return row.paper.certified_accuracy if same else None


def _panels(table: str, scale: str, draw: Callable[..., None]) -> Figure:
    """One panel per data set, stacked vertically, with one colour per row title."""
    by_row = recorded_by_row(table, scale)
    order = [key for key in data.DATASETS if any(_dataset(runs) == key for runs in by_row.values())]
    labels = _labels(by_row)
    titles = dict.fromkeys(labels.values())
    colors = matplotlib.color_sequences["tab10" if len(titles) <= 10 else "tab20"]
    palette = {title: colors[i % len(colors)] for i, title in enumerate(titles)}
    height = 2.9 + (1.5 if len(titles) > 10 else 0)
    shape = (8, height * max(len(order), 1))
    figure, axes = plt.subplots(
        max(len(order), 1), 1, figsize=shape, layout="constrained", squeeze=False
    )
    for ax, key in zip(axes[:, 0], order, strict=False):
        for name, runs in by_row.items():
            if _dataset(runs) == key:
                title = labels[name]
                draw(ax, name, runs, label=title, color=palette[title])
        ax.set_title(data.DATASETS[key].title)
        ax.grid(alpha=0.3)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    if not order:
        axes[0, 0].set_axis_off()
        axes[0, 0].text(0.5, 0.5, f"{table}: no run recorded at scale {scale}", ha="center")
    return figure


def _labels(by_row: dict[str, list[Run]]) -> dict[str, str]:
    """Each row's title; the row's name is added if rows of a data set share titles (Table 3)."""
    titles = {name: experiments.get(name).title for name in by_row}
    keys = [(titles[name], _dataset(runs)) for name, runs in by_row.items()]
    if len(set(keys)) == len(keys):
        return titles
    return {name: f"{title}, {name.partition('/')[2]}" for name, title in titles.items()}


def _draw_curves(ax: Axes, name: str, runs: Sequence[Run], *, label: str, color: ColorType) -> None:
    eps = float(eps_of(runs[0]))
    farthest = max(eps, *(certified_radii(run).max() for run in runs))
    shares = certified_at(runs, np.linspace(0, farthest, POINTS).tolist())
    ax.plot(shares.index, 100 * shares, color=color, label=label, linewidth=1.5)
    paper = _paper(name, runs)
    if paper is not None:
        ax.plot(eps, 100 * paper, "o", color=color, markeredgecolor="black", zorder=3)
    ax.axvline(eps, color="0.3", linestyle=":", linewidth=1)
    ax.set(xlabel="radius, pixels", ylabel="certified, % of the images", ylim=(0, 100))


def _draw_margins(
    ax: Axes, name: str, runs: Sequence[Run], *, label: str, color: ColorType
) -> None:
    images = pd.concat([run.certificates for run in runs])
    right = images[images["predicted"] == images["label"]]
    eps = float(eps_of(runs[0]))
    bins = np.linspace(0, min(1.0, 4 * eps), 61).tolist()
    radii = right["margin_radius"].dropna()
    if len(radii):
        weight = np.full(len(radii), 100 / len(images))
        ax.hist(radii, bins, weights=weight, histtype="step", color=color, label=label)
    ax.axvline(eps, color="0.3", linestyle=":", linewidth=1)
    ax.set(xlabel="margin / 2, pixels", ylabel="% of the images")
