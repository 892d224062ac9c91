"""What lies beside the runs: backups, copies and editors' files stop no table; damage does."""

import shutil
import warnings

import pytest
from helpers import made_records

from linfdist import records, report
from linfdist.bench import recorded
from linfdist.cli import main
from linfdist.records import NotARunWarning, RecordError

NET = "table1/mnist_net"
EPOCHS = [{"epoch": 1, "p": 8.0, "train_accuracy": 0.5}]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    return made_records.record(tmp_path, NET, epochs=EPOCHS)


def copy(run, *parts):
    to = records.runs_dir().joinpath(*parts)
    shutil.copytree(run.path, to)
    return to


LEFT_OUT = {
    "a backup": ("table1", "mnist_net", "reduced", "seed0.bak"),
    "a backup with a tilde": ("table1", "mnist_net", "reduced", "seed0~"),
    "a copy of a desktop": ("table1", "mnist_net", "reduced", "seed0 (copy)"),
    "an old one": ("table1", "mnist_net", "reduced", "old"),
    "another seed's place": ("table1", "mnist_net", "reduced", "seed1"),
    "a seed with a 0 before it": ("table1", "mnist_net", "reduced", "seed00"),
    "a copy of the row": ("table1", "mnist_net_old", "reduced", "seed0"),
    "a copy of the scale": ("table1", "mnist_net", "reduced.bak", "seed0"),
    "a copy of the table": ("table1_old", "mnist_net", "reduced", "seed0"),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_a_copy_is_left_out_with_a_warning_that_names_it(run, what):
    to = copy(run, *LEFT_OUT[what])
    with pytest.warns(NotARunWarning, match="left out: it .*Move it out of the records") as seen:
        assert [found.path for found in records.find_runs()] == [run.path]
    assert {str(warning.message).partition(" is left out")[0] for warning in seen} == {str(to)}


@pytest.mark.parametrize("what", LEFT_OUT)
@pytest.mark.filterwarnings("ignore::linfdist.records.NotARunWarning")
def test_a_copy_changes_no_table_and_no_list(run, what, capsys):
    before = report.text(1)
    main(["list"])
    listed = capsys.readouterr().out
    copy(run, *LEFT_OUT[what])
    assert report.text(1) == before
    assert main(["list"]) == 0
    assert capsys.readouterr().out == listed


def test_editors_files_are_ignored_without_a_word(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder in (run.path, *run.path.parents[:4]):
            for name in (".DS_Store", "._seed0", "#seed0#", ".seed0.swp", "notes.txt", "x~"):
                (folder / name).write_text("an editor's")
            (folder / ".ipynb_checkpoints").mkdir()
        shutil.copytree(run.path, run.path.with_name(".seed0.sb-1"))
        assert [found.path for found in records.find_runs()] == [run.path]
        assert [found.path for found in records.find_runs(NET, "reduced", 0)] == [run.path]
    bench = records.runs_dir() / "bench"
    bench.mkdir()
    for name in (".#cpu.json", "._cpu.json", "cpu.json~", ".cpu.json-123"):
        (bench / name).write_text("an editor's")
    assert recorded.benches() == []


def test_damage_in_a_run_s_own_place_still_stops(run):
    (run.path / "epochs.csv").write_text("")
    with pytest.raises(RecordError, match=r"epochs\.csv must have the recorded SHA-256"):
        records.find_runs()


def test_each_row_s_list_warns_of_its_own_folders_alone(run):
    copy(run, *LEFT_OUT["a copy of the row"])
    assert len(records.find_runs(NET)) == 1  # a warning here would be an error
    with pytest.warns(
        NotARunWarning, match="says that the run belongs at table1/mnist_net/reduced/seed0"
    ):
        assert records.find_runs("table1/mnist_net_old") == []
