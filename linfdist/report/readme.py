"""The tables and the picture of README.md, rendered from the records.

``python -m linfdist.report.readme`` updates README.md (the tables of results and speed, and the
paragraph about GPUs) and the picture that it shows.
"""

import hashlib
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from linfdist import records
from linfdist.bench import recorded
from linfdist.report.formats import ACCURACIES, format_percent
from linfdist.report.tables import table

RESULTS = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)
SPEED = re.compile(r"(?<=<!-- speed -->\n).*?(?=<!-- /speed -->)", re.DOTALL)
GPU = re.compile(r"(?<=<!-- gpu -->\n).*?(?=<!-- /gpu -->)", re.DOTALL)
SHOWN_SCALES = ("reduced", "paper")
OUR_NETS = "ℓ∞-dist"  # how the names of l_inf-dist nets begin
PICTURE = "book/images/certified.svg"


def rendered(text: str) -> str:
    """The text of README.md with every rendered part brought up to date with the records."""
    text = RESULTS.sub(lambda _: results(), text)
    text = SPEED.sub(lambda _: speed(), text)
    return GPU.sub(lambda _: gpu(), text)


def results() -> str:
    """Table 1's recorded ℓ∞-dist nets as Markdown: the paper's numbers, then each scale's."""
    tables = {scale: table(1, scale) for scale in SHOWN_SCALES}
    own = tables["reduced"]["method"].str.startswith(OUR_NETS)
    shown = [scale for scale in SHOWN_SCALES if tables[scale]["seeds"].sum() or scale == "reduced"]
    heading = ["data set (eps)", "method", "paper"]
    for scale in shown:
        heading += [f"`{scale}`", "seeds", "minutes a run"]
    lines = [heading, ["---"] * len(heading)]
    for index, row in tables["reduced"][own].iterrows():
        if not any(tables[scale].loc[index]["seeds"] for scale in shown):
            continue
        cells = [f"{row['data set']} ({row['eps']})", row["method"], _accuracies(row, "paper ")]
        for scale in shown:
            here = tables[scale].loc[index]
            minutes = f"{here['minutes']:.0f}" if here["seeds"] else "–"
            noted = here["scale"].removeprefix(scale)  # " (1,000 test images)"
            cells += [_accuracies(here) + noted, f"{here['seeds']:.0f}", minutes]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _accuracies(row, prefix: str = "") -> str:
    values = [row[f"{prefix}{name}"] for name in ACCURACIES]
    return "–" if values[0] != values[0] else " / ".join(map(format_percent, values))


def pictured() -> pd.DataFrame:
    """What the picture shows: the recorded rows of Table 1 with their certified accuracies."""
    rows = table(1, "reduced")
    columns = ["data set", "eps", "method", "paper certified", "certified", "certified sd"]
    return rows[rows["seeds"] > 0][columns].reset_index(drop=True)


def digest(rows: pd.DataFrame) -> str:
    """What the picture says of its data, so that a test can see that it is not out of date."""
    return hashlib.sha256(rows.to_csv(index=False, float_format="%.4f").encode()).hexdigest()


def draw(path: Path) -> None:
    """Draw ``pictured`` as an SVG file: one panel per data set, the paper's number beside ours."""
    rows = pictured()
    sets = rows.groupby(["data set", "eps"], sort=False)
    heights = [len(group) for _, group in sets]
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "linfdist", "font.size": 9}):
        figure, axes = plt.subplots(
            len(heights), figsize=(8, 1 + 0.26 * sum(heights)), height_ratios=heights, squeeze=False
        )
        for ax, ((name, eps), group) in zip(axes.flat, sets, strict=True):
            ours = group["method"].str.startswith(OUR_NETS)
            colors = ours.map({True: "#3b7dd8", False: "#8f8f8f"})
            here, paper = 100 * group["certified"], 100 * group["paper certified"]
            ax.hlines(group["method"], here, paper, color="#d0d0d0", zorder=1)
            ax.scatter(paper, group["method"], facecolor="white", edgecolor=colors, zorder=2)
            ax.scatter(here, group["method"], color=colors, zorder=3)
            ax.invert_yaxis()
            ax.set_title(f"{name}, eps {eps}", loc="left")
            ax.grid(axis="x", color="#eeeeee")
            ax.spines[["top", "right", "left"]].set_visible(False)
        label = "certified test accuracy in percent: ○ paper, ● recorded here at the reduced scale"
        figure.supxlabel(f"{label}; ℓ∞-dist nets in blue", fontsize="medium")
        figure.tight_layout()
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Description": digest(rows)})
        plt.close(figure)


def speed() -> str:
    """The recorded benches as Markdown: our speed and the fastest peer timed beside it."""
    return "\n".join(map(_speed_of, recorded.benches()))


def _speed_of(bench: recorded.Bench) -> str:
    share = bench.hardware is not None
    heading = ["in → out", "p", "pass", "10⁹ pairs/s", *["of the roofline"] * share]
    lines = [[*heading, "best peer", "faster by"]]
    lines.append(["---"] * len(lines[0]))
    for row in recorded.best_peers(bench).to_dict("records"):
        cells = [recorded.format_shape(row["shape"]), recorded.format_p(row["p"]), row["pass"]]
        cells.append(f"{row['giga_pairs_per_second']:.1f}")
        if share:
            known = row["roofline_share"] == row["roofline_share"]
            cells.append(f"{row['roofline_share']:.0%}" if known else "–")
        peer = row["best_peer"]
        cells += [peer, recorded.format_factor(row["faster_by"])] if peer else ["–", "–"]
        lines.append(cells)
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{bench.title}, float32, batch 512:\n\n{table}"


def gpu() -> str:
    """The README's paragraph about GPUs: which GPUs have a recorded bench, or that none has."""
    state = recorded.gpu_state(recorded.benches())
    yet = ", so their speed is unknown" if state == recorded.NO_GPU_RUN else ""
    return (
        "**On a GPU.** The CUDA kernels are compiled for sm_80 and sm_90, and as PTX, which the "
        "driver compiles for later GPUs.\n"
        f"They have **{state}**{yet}. "
        "`python -m linfdist session` builds, tests, benchmarks and\n"
        "trains on one within the time that `--seconds` sets; "
        "[the book's page on speed](book/method/speed.ipynb) has the rooflines.\n"
    )


if __name__ == "__main__":
    readme = records.repository() / "README.md"
    draw(records.repository() / PICTURE)
    readme.write_text(rendered(readme.read_text(encoding="utf-8")), encoding="utf-8")
