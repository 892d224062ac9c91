"""README.md: its tables, code and commands, and the files that repeat what pyproject.toml says."""

import ast
import html
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from helpers.threads import one_thread
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from linfdist.bench import recorded
from linfdist.report.readme import (
    GPU,
    PICTURE,
    RESULTS,
    SPEED,
    digest,
    draw,
    gpu,
    pictured,
    results,
    speed,
)

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RENDER = "README.md differs from runs/: render it again with `python -m linfdist.report.readme`."


def _commands() -> list[str]:
    return [line for line in README.read_text().splitlines() if line.startswith("pip install")]


def _requirements() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["book"], *extras["test"]]
    return {Requirement(line).name: Requirement(line) for line in lines}


def test_results_are_those_of_runs(monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(ROOT / "runs"))
    assert RESULTS.search(README.read_text()).group() == results(), RENDER


def test_the_picture_is_that_of_runs(monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(ROOT / "runs"))
    assert f"({PICTURE})" in README.read_text()
    assert digest(pictured()) in (ROOT / PICTURE).read_text(), RENDER


def test_the_picture_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(ROOT / "runs"))
    draw(tmp_path / "drawn.svg")
    drawn = (tmp_path / "drawn.svg").read_text()
    assert digest(pictured()) in drawn
    assert all(f">{html.escape(name, quote=False)}<" in drawn for name in pictured()["method"])


def test_speeds_are_those_of_runs(monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(ROOT / "runs"))
    assert SPEED.search(README.read_text()).group() == speed(), RENDER


def test_it_says_not_yet_run_on_a_gpu_until_a_record_shows_that_it_has(monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(ROOT / "runs"))
    assert GPU.search(README.read_text()).group() == gpu(), RENDER
    has_run = any(bench.on_gpu for bench in recorded.benches())
    assert (recorded.NO_GPU_RUN in README.read_text()) is not has_run


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
        'pip install -c constraints.txt -e ".[book]" && jupyter-book build book/',
        'pip install -c constraints.txt -e ".[test]" && pytest -n 2 --dist loadfile',
    ]


@pytest.mark.parametrize("extra", ["book", "test"])
def test_ci_runs_the_readmes_commands(extra):
    start = f'pip install -c constraints.txt -e ".[{extra}]"'
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


def test_the_conda_environment_has_the_constraints_and_every_extra():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, nested = environment["dependencies"]
    constraint, itself = nested["pip"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert constraint == "-c constraints.txt" and (ROOT / "constraints.txt").is_file()
    extras = re.fullmatch(r"-e \.\[(.*)\]", itself)[1].split(",")
    assert {*extras} == {*project["optional-dependencies"]}
    assert f"python{project['requires-python']}" in conda


def test_no_range_ends_below_the_next_major_version():
    """A torch that works must not be forbidden."""
    for requirement in _requirements().values():
        for bound in requirement.specifier:
            if bound.operator in ("<", "<="):
                assert requirement.name not in ("torch", "torchvision") or "." not in bound.version


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


def _installed_with(extra: str) -> set[str]:
    """The distributions that `pip install .[extra]` brings, from what each of them requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    left = [*project["dependencies"], *project["optional-dependencies"][extra]]
    seen: set[tuple[str, str]] = set()
    while left:
        requirement = Requirement(left.pop())
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            environment = {"extra": wanted}
            if (name, wanted) in seen:
                continue
            if requirement.marker is None or requirement.marker.evaluate(environment):
                seen.add((name, wanted))
                for line in metadata.requires(name) or ():
                    marker = Requirement(line).marker
                    if marker is None or marker.evaluate(environment):
                        left.append(line.split(";")[0])
    return {name for name, _ in seen}


def test_every_module_that_the_tests_import_comes_with_the_test_extra():
    """A module that only this machine happens to have fails on the next one."""
    installed = _installed_with("test")
    owners = metadata.packages_distributions()
    own = {"linfdist", *(path.stem for path in (ROOT / "tests").iterdir())}
    on_request = ROOT / "tests" / "mutants.py"  # which has an extra of its own
    for path in {*(ROOT / "tests").rglob("*.py")} - {on_request}:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in getattr(node, "names", ())]
            modules = names if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules}:
                if top in sys.stdlib_module_names or top in own:
                    continue
                found = {canonicalize_name(name) for name in owners.get(top, ())}
                assert found & installed, f"{path.relative_to(ROOT)} imports {top}"


def test_citation_names_the_paper_and_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert "arXiv:2102.05363" in str(citation["preferred-citation"])
