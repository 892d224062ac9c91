"""Pictures and tables for the book's page on speed."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pandas.io.formats.style import Styler

from linfdist.bench import roofline
from linfdist.bench.iterations import ADAMW
from linfdist.bench.peers import OURS, SMOOTHED
from linfdist.bench.recorded import Bench, best_peers, format_factor, format_p, format_shape

# Ours has the book's blue. The known peers have their own colours; users' peers take OWN_COLORS.
COLORS = {
    OURS: "#3b7dd8",
    "torch.compile": "#d9822b",
    "torch.cdist": "#c0504d",
    "numba": "#7f7f7f",
    "scipy": "#b5b5b5",
}
OWN_COLORS = ("#2e8b57", "#8064a2", "#a0522d")
# Names of the candidates that are compared with our parts of a step.
STEP_NAMES = dict(
    zip((*SMOOTHED, ADAMW), ("LogSumExp", "LogSumExp, bfloat16", "fused AdamW"), strict=True)
)
STEP_COLORS = {
    "forward+backward": COLORS[OURS],
    "LogSumExp": "#2e8b57",
    "LogSumExp, bfloat16": "#8fc7a5",
    "optimizer": "#9dc0ee",
    "fused AdamW": "#d9822b",
}


def distances(bench: Bench) -> Figure:
    """Each candidate's speed in 10^9 pairs per second, with one panel per shape and pass.

    A missing bar belongs to a candidate that was left out or whose result disagreed. A black line
    is the GPU's roofline.
    """
    shapes, passes = bench.rows["shape"].unique(), bench.rows["pass"].unique()
    figure, axes = plt.subplots(
        len(shapes),
        len(passes),
        figsize=(4 * len(passes), 2.3 * len(shapes) + 0.5),
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    colors = _colors(bench)
    for line, shape in zip(axes, shapes, strict=True):
        for ax, one_pass in zip(line, passes, strict=True):
            here = bench.rows.query("shape == @shape and `pass` == @one_pass")
            good = here[here["note"] == ""]
            _bars(ax, good, "candidate", "giga_pairs_per_second", colors)
            _rooflines(ax, good)
            ax.set_title(f"{format_shape(shape)}, {one_pass}", fontsize=10)
        line[0].set_ylabel("10⁹ pairs a second")
    return _finish(figure, bench, colors)


def steps(bench: Bench) -> Figure:
    """Milliseconds of the parts of a training step, with one panel per net."""
    nets = bench.iterations["net"].unique()
    figure, axes = plt.subplots(
        1, len(nets), figsize=(4 * len(nets), 3), sharey=True, squeeze=False, layout="constrained"
    )
    timed = bench.iterations[bench.iterations["note"] == ""]
    part = timed["part"].where(timed["candidate"] == OURS, timed["candidate"].map(STEP_NAMES))
    timed = timed.assign(part=part, milliseconds=1e3 * timed["seconds"])
    for ax, net in zip(axes[0], nets, strict=True):
        here = timed[timed["net"] == net]
        _bars(ax, here, "part", "milliseconds", STEP_COLORS)
        ax.set_title(f"{net}, {here['scale'].iloc[0]}", fontsize=10)
    axes[0, 0].set_ylabel("milliseconds")
    return _finish(figure, bench, STEP_COLORS)


def _colors(bench: Bench) -> dict[str, str]:
    names = list(bench.rows.loc[bench.rows["note"] == "", "candidate"].unique())
    own = iter(OWN_COLORS * len(names))
    return {name: COLORS.get(name) or next(own) for name in names}


def _bars(ax: Axes, rows: pd.DataFrame, name: str, value: str, colors: dict[str, str]) -> None:
    """Draw one group of bars per p on a logarithmic axis, with one bar per name in ``colors``."""
    table = rows.pivot(index="p", columns=name, values=value).reindex(rows["p"].unique())
    width = 0.8 / len(colors)
    for index, (each, color) in enumerate(colors.items()):
        first = (index - (len(colors) - 1) / 2) * width
        if each in table:
            ax.bar([first + place for place in range(len(table))], table[each], width, color=color)
    ax.set_xticks(range(len(table)), [f"p = {format_p(p)}" for p in table.index])
    ax.set(xlim=(-0.5, len(table) - 0.5), yscale="log")
    ax.grid(axis="y", alpha=0.3)
    ax.set_axisbelow(True)


def _rooflines(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw a line across each p: the roofline, computed from our share of it and our speed."""
    if "roofline_share" not in rows:
        return
    ours = rows[rows["candidate"] == OURS]
    limit = ours["giga_pairs_per_second"] / ours["roofline_share"]
    for place, height in enumerate(limit):
        ax.plot([place - 0.45, place + 0.45], [height, height], color="black", linewidth=1.5)


def _finish(figure: Figure, bench: Bench, colors: dict[str, str]) -> Figure:
    for ax in figure.axes:  # start at a whole decade; the panels of a row share the axis
        heights = [bar.get_height() for bar in ax.patches if isinstance(bar, Rectangle)]
        lowest = min(height for height in heights if height > 0)
        ax.set_ylim(bottom=min(10 ** math.floor(math.log10(lowest)), ax.get_ylim()[0]))
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in colors.values()]
    figure.legend(handles, colors, loc="outside lower center", ncols=len(colors), fontsize=9)
    figure.suptitle(bench.title, fontsize=11)
    return figure


def roofline_table(gpu: roofline.Hardware, p_values: tuple[float, ...]) -> pd.DataFrame:
    """The arithmetic of the rooflines: instructions per pair, pairs per clock and per second."""
    lines = []
    for p in p_values:
        for backward in (False, True):
            cost = roofline.instructions(p, backward, gpu.capability)
            rate = roofline.pairs_per_second(p, backward, gpu)
            if cost is None or rate is None:
                continue
            lines.append(
                {
                    "p": format_p(p),
                    "pass": "backward" if backward else "forward",
                    "FMA pipe": cost.fma,
                    "min or max": cost.min_max,
                    "special functions": cost.special,
                    "pairs a clock": roofline.pairs_per_clock(cost, gpu.capability),
                    "10¹² pairs a second": rate / 1e12,
                }
            )
    return pd.DataFrame(lines)


def show(bench: Bench) -> Styler:
    """One line per case of a bench: our speed, the best peer, and how much faster ours is."""
    table = best_peers(bench)
    table["shape"] = table["shape"].map(format_shape)
    table["p"] = table["p"].map(format_p)
    table["best_peer"] = table["best_peer"].replace("", "–")
    if bench.hardware is None:
        table = table.drop(columns="roofline_share")
    headings = {
        "shape": "in → out",
        "giga_pairs_per_second": "10⁹ pairs/s",
        "roofline_share": "of the roofline",
        "best_peer": "best peer",
        "faster_by": "faster by",
    }
    styler = table.rename(columns=headings).style.hide(axis="index").set_caption(bench.title)
    styler = styler.format("{:.1f}", subset=["10⁹ pairs/s"])
    if bench.hardware is not None:
        styler = styler.format("{:.0%}", subset=["of the roofline"], na_rep="–")
    return styler.format(format_factor, subset=["faster by"], na_rep="–")
