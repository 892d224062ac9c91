"""README.md: its table, its code, its commands, and the files that repeat what pyproject.toml says.

``python tests/test_readme.py`` renders the tables of results and speed, and what
may be said of GPUs, from runs/ into README.md.
"""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from threads import one_thread

from linfdist import report
from linfdist.bench import recorded
from linfdist.report.formats import format_percent

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)", re.DOTALL)
SPEED = re.compile(r"(?<=<!-- speed -->\n).*?(?=<!-- /speed -->)", re.DOTALL)
GPU = re.compile(r"(?<=<!-- gpu -->\n).*?(?=<!-- /gpu -->)", re.DOTALL)
SCALES = ("reduced", "paper")


def results() -> str:
    """Table 1's recorded rows as Markdown: the paper's numbers, and a column for each scale."""
    tables = {scale: report.table(1, scale) for scale in SCALES}
    own = tables["reduced"]["source"] == "this code"
    shown = [scale for scale in SCALES if tables[scale]["seeds"].sum() or scale == "reduced"]
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
    values = [row[f"{prefix}{name}"] for name in report.ACCURACIES]
    return "–" if values[0] != values[0] else " / ".join(map(format_percent, values))


def speed() -> str:
    """The recorded benches as Markdown: ours, and the fastest peer that was timed beside it."""
    return "\n".join(map(_speed_of, _benches()))


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
    """What the README says of GPUs: that no bench is recorded on one, or on which."""
    state = recorded.gpu_state(_benches())
    yet = ": none of their numbers is known" if state == recorded.NOT_YET else ""
    return (
        "**On a GPU.** The CUDA kernels are compiled for sm_80, sm_90 and PTX, which later GPUs "
        f"compile for themselves;\nthey have **{state}**{yet}. `python -m linfdist session` "
        "builds, tests, benches and\ntrains on one within a budget of seconds; "
        "[the book's page on speed](book/method/speed.ipynb) has the rooflines.\n"
    )


def _benches() -> list[recorded.Bench]:
    return recorded.benches(ROOT / "runs" / "bench")


def _commands() -> list[str]:
    return [line for line in README.read_text().splitlines() if line.startswith("pip install")]


def _requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["book"], *extras["test"]]
    return {Requirement(line).name: Requirement(line) for line in lines}


def test_results_are_those_of_runs(monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(ROOT / "runs"))
    assert RESULTS.search(README.read_text()).group() == results(), (
        "README.md's table differs from runs/: render it again with `python tests/test_readme.py`."
    )


def test_speeds_are_those_of_runs():
    assert SPEED.search(README.read_text()).group() == speed(), (
        "README.md's speeds differ from runs/: render them with `python tests/test_readme.py`."
    )


def test_it_says_not_yet_run_on_a_gpu_until_a_record_shows_that_it_has():
    assert GPU.search(README.read_text()).group() == gpu(), (
        "README.md's words on GPUs differ from runs/bench: `python tests/test_readme.py`."
    )
    has_run = any(bench.on_gpu for bench in _benches())
    assert (recorded.NOT_YET in README.read_text()) is not has_run


@pytest.fixture
def single_thread():
    with one_thread():
        yield


def test_quick_use_runs(single_thread):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, str(README), "exec"), names)
    radius, test = names["radius"], names["test"]
    assert radius.shape == (len(test),)
    assert (radius > float(test.info.eps)).float().mean() > 0.5


def test_the_two_commands():
    assert _commands() == [
        'pip install -e ".[book]" && jupyter-book build book/',
        'pip install -e ".[test]" && pytest -n 2 --dist loadfile',
    ]


@pytest.mark.parametrize("start", ['pip install -e ".[book]"', 'pip install -e ".[test]"'])
def test_ci_runs_the_readmes_commands(start):
    assert f"readme_command '{start}'" in (ROOT / ".ci" / "run").read_text()
    assert [command.startswith(start) for command in _commands()].count(True) == 1


@pytest.mark.parametrize(
    "path", ["README.md", "book/intro.ipynb", "book/trust/robust_column.ipynb"]
)
def test_runs_that_a_reader_is_told_to_make_are_not_recorded_yet(path):
    """A command that is copied must not end in "a run is recorded once"."""
    found = re.findall(
        r"linfdist run (\w+/\w+)( --scale \w+)?( --seed \d+)?", (ROOT / path).read_text()
    )
    assert found
    for name, scale, seed in found:
        scale, seed = scale.split()[-1:] or ["reduced"], seed.split()[-1:] or ["0"]
        assert not (ROOT / "runs" / name / scale[0] / f"seed{seed[0]}").exists(), (name, seed)


def test_paths_and_links_exist():
    text = README.read_text()
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / path).exists(), f"README.md links to {path}, which does not exist"


def test_conda_environment_has_pyprojects_ranges():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, nested = environment["dependencies"]
    *lines, itself = nested["pip"]
    assert {Requirement(line).name: Requirement(line) for line in lines} == _requirements()
    assert itself == "-e ."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"python{project['requires-python']}" in conda


def test_constraints_are_one_tested_version_of_each_requirement():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {}
    for line in filter(lambda line: line and not line.startswith("#"), lines):
        requirement = Requirement(line)
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        pinned[requirement.name.lower().replace("_", "-")] = pin.version
    for name, requirement in _requirements().items():
        assert name in pinned, f"constraints.txt lacks {name}"
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: {pinned[name]}"


def test_citation_names_the_paper_and_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert "arXiv:2102.05363" in str(citation["preferred-citation"])


if __name__ == "__main__":
    text = RESULTS.sub(lambda _: results(), README.read_text())
    text = SPEED.sub(lambda _: speed(), text)
    README.write_text(GPU.sub(lambda _: gpu(), text))
