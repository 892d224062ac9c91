"""The notebooks are listed, thin, stored without outputs, and run; the built book reads offline."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers import notebooks
from papermill.cli import _resolve_type
from papermill.translators import PythonTranslator

from linfdist.notebook import WrongParameter, check_parameters

BOOK = Path(__file__).resolve().parents[2] / "book"
PAGES = sorted(
    path
    for path in BOOK.rglob("*")
    if path.suffix in {".ipynb", ".md"} and not {"_build", ".ipynb_checkpoints"} & {*path.parts}
)
NOTEBOOKS = [path for path in PAGES if path.suffix == ".ipynb"]
# What a notebook is run with here, besides its own defaults.
SMOKE = {"scale": "smoke", "rerun": True, "pairs": 100}


def name(path: Path) -> str:
    return path.relative_to(BOOK).as_posix()


def cells(path: Path, kind: str = "code") -> list[dict]:
    notebook = json.loads(path.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def parameters(path: Path) -> list[str]:
    """The names that a notebook's parameters cell binds."""
    return [node.targets[0].id for node in ast.parse(source(cells(path)[0])).body]


# --- the notebooks as they are stored ---------------------------------------------------------


def test_table_of_contents_lists_every_page():
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    listed = [toc["root"]]
    listed += [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert sorted(listed) == sorted(name(path.with_suffix("")) for path in PAGES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_stored_without_outputs(path):
    notebook = json.loads(path.read_text())
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_parameters_come_first_and_are_checked(path):
    first, second, *_ = cells(path)
    assert "parameters" in first["metadata"]["tags"]
    assert parameters(path)
    assert "check_parameters(In)" in source(second)


# What a command line can say for each type of parameter that is not of it.
OTHERS = {
    bool: ("false", "true", "no", "0", "1", "None", "-1"),
    int: ("x", "1.5", "True", "None", "1e3"),
    float: ("x", "True", "None", "nan", "inf"),
    str: ("1", "0.5", "True", "None"),
    tuple: ("1", "x", "True", "None"),
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_value_of_another_type_is_refused_before_anything_runs(path):
    """As ``papermill -p NAME VALUE`` resolves the value and writes it into a cell of its own."""
    first, second, *_ = map(source, cells(path))
    tried = 0
    for parameter, value in defaults(path).items():
        for given in OTHERS[type(value)]:
            cell = PythonTranslator.codify({parameter: _resolve_type(given)})
            with pytest.raises(WrongParameter, match=f"Parameter '{parameter}' must be "):
                check_parameters(["", first, cell, second])
            tried += 1
        value = list(value) if isinstance(value, tuple) else value  # papermill has no tuples
        check_parameters(["", first, PythonTranslator.codify({parameter: value}), second])
    assert tried >= 4
    assert "import" not in first and second.startswith("from linfdist.notebook import check_par")


def defaults(path: Path) -> dict[str, object]:
    """A notebook's parameters and their values."""
    body = ast.parse(source(cells(path)[0])).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in body}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_thin(path):
    for cell in cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 3, f"{node.name} belongs in the package"
            trains = isinstance(node, ast.Attribute) and node.attr in {"backward", "zero_grad"}
            assert not trains, f"cell {cell['id']} trains: that belongs in the package"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_last_cell_asserts(path):
    last = ast.parse(source(cells(path)[-1]))
    assert any(isinstance(node, ast.Assert) for node in ast.walk(last))


# --- the notebooks as they run ----------------------------------------------------------------


def papermill(path: Path, folder: Path, given: dict[str, object]) -> subprocess.CompletedProcess:
    """Run a notebook with records and weights under ``folder``."""
    options = [part for item in given.items() for part in ("-p", *map(str, item))]
    environment = {
        **os.environ,
        "LINFDIST_RUNS": str(folder / "runs"),
        "LINFDIST_WORK": str(folder / "work"),
        "OMP_NUM_THREADS": "1",  # two notebooks at a time, one core each
    }
    command = [sys.executable, "-m", "papermill", path, folder / path.name, *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def given(path: Path) -> dict[str, object]:
    """What a notebook is run with here; it may take nothing of it."""
    return {key: value for key, value in SMOKE.items() if key in parameters(path)}


def built_as_it_is(path: Path) -> bool:
    """Whether the book was built, and so the notebook run, after its and the package's last change.

    The build runs a notebook with its defaults, and fails if it does.
    """
    page = BOOK / "_build" / "html" / Path(name(path)).with_suffix(".html")
    sources = [path, *(BOOK.parent / "linfdist").rglob("*.py")]
    return page.exists() and page.stat().st_mtime > max(one.stat().st_mtime for one in sources)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, subprocess.CompletedProcess]:
    """Every notebook at smoke scale, each in a folder of its own, two at a time.

    Left out is what the book's build has just run in the same way.
    """

    def run(path: Path) -> subprocess.CompletedProcess:
        folder = tmp_path_factory.mktemp(path.stem)
        folders = {"LINFDIST_RUNS": str(folder / "runs"), "LINFDIST_WORK": str(folder / "work")}
        return notebooks.run(path, given(path), **folders)

    left = [path for path in NOTEBOOKS if given(path) or not built_as_it_is(path)]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(map(name, left), pool.map(run, left), strict=True))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_runs_at_smoke_scale(runs, path):
    if name(path) not in runs:
        pytest.skip("the book's build has run it with the same parameters")
    run = runs[name(path)]
    assert run.returncode == 0, run.stderr[-3000:]


def test_a_table_renders_the_rows_that_are_recorded(tmp_path):
    table = BOOK / "tables" / "table1.ipynb"
    two = {"scale": "smoke", "rerun": True, "rows": "mnist_net,cifar10_net_mlp"}
    assert papermill(table, tmp_path, two).returncode == 0
    assert [path.name for path in (tmp_path / "runs").glob("*/*")] != []
    before = sorted((tmp_path / "runs").rglob("*"))
    again = papermill(table, tmp_path, {"scale": "smoke"})  # two rows recorded, four not
    assert again.returncode == 0, again.stderr[-3000:]
    assert sorted((tmp_path / "runs").rglob("*")) == before


def test_misspelt_parameter_is_refused(tmp_path):
    run = papermill(BOOK / "tables" / "table6.ipynb", tmp_path, {"sclae": "smoke"})
    assert run.returncode != 0
    assert re.search(r"UnknownParameter.*sclae.*scale", run.stderr)


# --- the built book ---------------------------------------------------------------------------


class Assets(HTMLParser):
    """Collects what a browser loads with a page; links to follow are not among it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag == "link" and given.get("rel", "") not in {"canonical", "index", "search"}:
            self.found.append(given.get("href", ""))
        for key in ("src", "srcset", "poster", "data"):
            if tag not in {"a", "param"} and key in given:
                self.found.append(given[key])
        self.found += css_assets(given.get("style", ""))
        self.inline = tag if tag in {"script", "style"} else None

    def handle_data(self, data: str) -> None:
        if self.inline == "style":
            self.found += css_assets(data)
        if self.inline == "script":  # a script's own text may load a URL only as a string
            self.found += re.findall(r"""["'`]((?:https?:)?//[^"'`\s]+)["'`]""", data)


def css_assets(css: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", css)


def remote_assets(built: Path) -> list[str]:
    """Assets of a built site's pages and style sheets that a browser fetches from elsewhere."""
    remote = re.compile(r"^(?:(?:https?|wss?):)?//", re.IGNORECASE)
    found = []
    for page in built.rglob("*.html"):
        if "_static" not in page.parts:
            parser = Assets()
            parser.feed(page.read_text())
            found += [f"{page.name}: {asset}" for asset in parser.found if remote.match(asset)]
    for sheet in built.rglob("*.css"):
        assets = css_assets(sheet.read_text())
        found += [f"{sheet.name}: {asset}" for asset in assets if remote.match(asset)]
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The built book, or a page of it with an equation where there is none."""
    if (BOOK / "_build" / "html" / "index.html").exists():
        return BOOK / "_build" / "html"
    if find_spec("jupyter_book") is None:
        pytest.skip("jupyter-book is not installed and the book is not built")
    copy = tmp_path_factory.mktemp("book")
    for file in ("_config.yml", "references.bib"):
        shutil.copy(BOOK / file, copy)
    shutil.copytree(BOOK / "_ext", copy / "_ext")
    (copy / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    (copy / "page.md").write_text(
        "# Page\n\n$$x$$\n\n{cite:p}`Zhang2021`\n\n```{bibliography}\n```\n"
    )
    call = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", call, "build", copy, "-W", "-n"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return copy / "_build" / "html"


def test_built_book_loads_nothing_from_elsewhere(built):
    assert remote_assets(built) == []


def test_built_book_has_its_own_mathjax(built):
    pages = [page.read_text() for page in built.rglob("*.html") if "_static" not in page.parts]
    with_math = [page for page in pages if 'class="math' in page]
    assert with_math and all("_static/mathjax/tex-chtml.js" in page for page in with_math)
    mathjax = built / "_static" / "mathjax"
    assert (mathjax / "tex-chtml.js").stat().st_size > 100_000
    assert list(mathjax.rglob("*.woff"))


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<link rel="stylesheet" href="//cdn.example.org/x.css">',
        '<img src="http://example.org/x.png">',
        '<p style="background: url(https://example.org/x.png)">',
        "<style>@import 'https://example.org/x.css';</style>",
        "<script>load('https://cdn.example.org/x.js')</script>",
    ],
)
def test_the_scan_finds_remote_assets(tmp_path, page):
    (tmp_path / "page.html").write_text(f'<a href="https://example.org">a link</a>{page}')
    assert len(remote_assets(tmp_path)) == 1


def extension(name):
    spec = importlib.util.spec_from_file_location(name, BOOK / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = yaml.safe_load((BOOK / "_config.yml").read_text())["sphinx"]
    assert config["local_extensions"][name] == "_ext"
    assert name in config["config"]["extensions"]
    return module


def test_every_build_reads_every_notebook_again():
    """A new run changes no source; without this the book would keep the old table."""
    paths = {"intro": "intro.ipynb", "method/records": "method/records.md"}
    env = SimpleNamespace(found_docs=set(paths), doc2path=paths.__getitem__)
    assert extension("rerender").notebooks(None, env, set(), set(), set()) == ["intro"]


def test_the_built_book_holds_the_records(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "recorded"))
    run = tmp_path / "recorded" / "table1" / "metrics.json"
    run.parent.mkdir(parents=True)
    run.write_text("{}")
    app = SimpleNamespace(outdir=tmp_path / "html")
    extension("copy_runs").copy_runs(app, RuntimeError("a build that failed"))
    assert not app.outdir.exists()
    for _ in range(2):
        extension("copy_runs").copy_runs(app, None)
    assert (app.outdir / "runs" / "table1" / "metrics.json").read_text() == "{}"


def test_what_a_page_includes_is_there():
    """The text after which an included part starts: Sphinx finds it missing only at the end."""
    found = 0
    for page in sorted(BOOK.rglob("*.md")):
        if "_build" in page.parts:
            continue
        for path, options in re.findall(
            r"```\{include\} (\S+)\n(.*?)```", page.read_text(), re.DOTALL
        ):
            included = (page.parent / path).read_text()
            for text in re.findall(r':(?:start-after|end-before): "(.*)"', options):
                assert text in included, f"{page.name} includes {path} from {text!r}"
                found += 1
    assert found
