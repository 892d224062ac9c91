"""The tables of README.md, rendered from the records.

``python -m linfdist.report.readme`` updates README.md: the tables of results and speed, and the
paragraph about GPUs.
"""

import re

from linfdist import records
from linfdist.bench import recorded
from linfdist.report.formats import ACCURACIES, format_percent
from linfdist.report.results import table

RESULTS = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)
SPEED = re.compile(r"(?<=<!-- speed -->\n).*?(?=<!-- /speed -->)", re.DOTALL)
GPU = re.compile(r"(?<=<!-- gpu -->\n).*?(?=<!-- /gpu -->)", re.DOTALL)
SHOWN_SCALES = ("reduced", "paper")


def rendered(text: str) -> str:
    """The text of README.md with every rendered part brought up to date with the records."""
    text = RESULTS.sub(lambda _: results(), text)
    text = SPEED.sub(lambda _: speed(), text)
    return GPU.sub(lambda _: gpu(), text)


def results() -> str:
    """Table 1's recorded rows as Markdown: the paper's numbers, then the columns of each scale."""
    tables = {scale: table(1, scale) for scale in SHOWN_SCALES}
    own = tables["reduced"]["source"] == "this code"
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


def speed() -> str:
    """The recorded benches as Markdown: our speed and the fastest peer timed beside it."""
    return "\n".join(map(_speed_of, benches()))


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
    state = recorded.gpu_state(benches())
    yet = ": none of their numbers is known" if state == recorded.NO_GPU_RUN else ""
    return (
        "**On a GPU.** The CUDA kernels are compiled for sm_80, sm_90 and PTX, which later GPUs "
        f"compile for themselves;\nthey have **{state}**{yet}. `python -m linfdist session` "
        "builds, tests, benches and\ntrains on one within a budget of seconds; "
        "[the book's page on speed](book/method/speed.ipynb) has the rooflines.\n"
    )


def benches() -> list[recorded.Bench]:
    return recorded.benches(records.runs_dir() / "bench")


if __name__ == "__main__":
    readme = records.repository() / "README.md"
    readme.write_text(rendered(readme.read_text(encoding="utf-8")), encoding="utf-8")
