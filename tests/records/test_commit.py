"""The recorded commit is that of the code's own checkout, or null with the reason said."""

import os
import subprocess
from pathlib import Path

import pytest

from linfdist import records
from linfdist.records import environment, paths
from linfdist.records.environment import CommitWarning

PROJECT = '[project]\nname = "linfdist"\n'


def git(folder: Path, *arguments: str) -> str:
    settings = ("user.name=x", "user.email=x", "init.defaultBranch=main", "safe.directory=*")
    options = [part for setting in settings for part in ("-c", setting)]
    command = ["git", "-C", str(folder), *options, *arguments]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=own).stdout


def repository(folder: Path, project: str = PROJECT) -> str:
    """A repository with one commit, its SHA-1."""
    (folder / "linfdist" / "records").mkdir(parents=True)
    (folder / "linfdist" / "records" / "paths.py").write_text(str(folder))
    (folder / "pyproject.toml").write_text(project)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The code's checkout, and its commit."""
    monkeypatch.setattr(
        paths, "__file__", str(tmp_path / "own" / "linfdist" / "records" / "paths.py")
    )
    return tmp_path / "own", repository(tmp_path / "own")


def test_the_commit_is_that_of_the_checkout(own):
    folder, commit = own
    assert environment.describe("cpu")["commit"] == commit
    assert environment.describe("cpu")["dirty"] is False
    (folder / "linfdist" / "new.py").touch()
    assert environment.describe("cpu")["dirty"] is True


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"]
)
def test_the_variables_of_a_hook_do_not_count(own, tmp_path, monkeypatch, name):
    other = repository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    monkeypatch.setenv(name, str(tmp_path / "other" / ".git"))
    described = environment.describe("cpu")
    assert described["commit"] == own[1] != other
    assert described["dirty"] is False


@pytest.mark.parametrize("deep", ["vendor/linf", "."])
def test_sources_in_another_checkout_have_no_commit(tmp_path, monkeypatch, deep):
    repository(tmp_path / "outer", '[project]\nname = "outer"\n')
    inner = tmp_path / "outer" / "x" / deep
    (inner / "linfdist").mkdir(parents=True)
    (inner / "pyproject.toml").write_text(PROJECT)
    monkeypatch.setattr(paths, "__file__", str(inner / "linfdist" / "records" / "paths.py"))
    assert records.checkout() == inner
    described = environment.describe("cpu")
    assert described["commit"] is None and described["dirty"] is None


@pytest.mark.skipif(os.geteuid() != 0, reason="root gives files away")
def test_a_checkout_of_another_owner_has_its_commit(own):
    folder, commit = own
    for path in (folder, *folder.rglob("*")):
        os.chown(path, 12345, 12345)
    plain = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    refused = subprocess.run(plain, check=False, capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr  # without what is mended here
    assert environment.describe("cpu")["commit"] == commit


def test_a_checkout_that_git_cannot_read_is_said(own, monkeypatch):
    folder, _ = own
    for name in ("HEAD", "config"):
        (folder / ".git" / name).unlink()
    with pytest.warns(CommitWarning, match="git cannot tell its commit, so the record says null"):
        assert environment.describe("cpu")["commit"] is None


def test_a_machine_without_git_is_said(own, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.warns(CommitWarning, match="No such file or directory.*Install git"):
        assert environment.describe("cpu")["dirty"] is None


@pytest.mark.parametrize("autocrlf", ["true", "input", "false"])
def test_a_clone_has_every_record_whatever_its_line_endings(tmp_path, monkeypatch, autocrlf):
    source = records.checkout()
    if not (source / ".git").exists():
        pytest.skip("sources without a repository")
    settings = ["-c", f"core.autocrlf={autocrlf}", "-c", "core.eol=crlf"]
    git(tmp_path, *settings, "clone", "-q", "--no-hardlinks", str(source), "clone")
    clone = tmp_path / "clone"
    monkeypatch.setenv("LINFDIST_RUNS", str(clone / "runs"))
    assert len(records.find_runs()) > 100
    from linfdist.bench import epochs_file, machine_code, recorded
    from linfdist.records.attacks import find_attacks

    assert all(len(found.table) for found in find_attacks())
    assert recorded.benches() and epochs_file.recorded_times("paper") and machine_code.load()
    for path in (
        "linfdist/records/store.py",
        "linfdist/csrc/bindings/module.cpp",
        "runs/README.md",
    ):
        assert b"\r" not in (clone / path).read_bytes()
