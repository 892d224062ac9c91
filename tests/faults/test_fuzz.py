"""Rubbish in the place of files: named errors alone, and never a result that is not the file's."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import made_records
from PIL import Image

from linfdist import records
from linfdist.data import DataError, readers, tinyimagenet
from linfdist.records import RecordError
from linfdist.records.files import json_text, read_sealed, replace_file, sealed_text
from linfdist.testing import faults
from linfdist.training import checkpoint
from linfdist.training.checkpoint import CheckpointError

STATE = {
    "step": 3,
    "net": {"weight": torch.arange(40.0)},
    "rows": [{"p": 8.0, "loss": None}],
    "environments": [{"commit": "a", "threads": 1}],
}


def damaged(content: bytes, number: int, seed: int = 0):
    """``number`` damaged copies: bits flipped, cut short, bytes replaced, added or swapped."""
    rng = np.random.default_rng(seed)
    for index in range(number):
        copy = bytearray(content)
        place = int(rng.integers(len(copy)))
        match index % 5:
            case 0:
                copy[place] ^= 1 << int(rng.integers(8))
            case 1:
                del copy[place:]
            case 2:
                copy[place : place + 8] = rng.bytes(8)
            case 3:
                copy[place:place] = rng.bytes(int(rng.integers(1, 9)))
            case 4:
                copy[place : place + 4], copy[:4] = copy[:4], copy[place : place + 4]
        if copy != content:
            yield bytes(copy)


# --- checkpoints --------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_never_loaded(tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, {"seed": 0}, STATE)
    tried = 0
    for content in damaged(path.read_bytes(), 400):
        path.write_bytes(content)
        for read in (lambda: checkpoint.load(path, {"seed": 0}, "cpu"), environments(path)):
            with pytest.raises(CheckpointError, match="must be a whole checkpoint"):
                read()
        tried += 1
    assert tried >= faults.get("a checkpoint cut short, or with a bit flipped").times


def environments(path):
    return lambda: checkpoint.environments(path)


def test_every_bit_of_a_checkpoint_is_looked_after(tmp_path):
    path = tmp_path / "c"
    checkpoint.save(path, {}, {"step": 1})
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            checkpoint.load(path, {}, "cpu")


def test_a_checkpoint_of_before_is_refused_damaged_or_not(tmp_path):
    path, tried = tmp_path / "c", 0
    torch.save({"format": 1, "fingerprint": '{"seed": 0}', "state": STATE}, path)
    whole = path.read_bytes()
    for content in (whole, *damaged(whole, 150)):
        path.write_bytes(content)
        for read in (lambda: checkpoint.load(path, {"seed": 0}, "cpu"), environments(path)):
            with pytest.raises(CheckpointError):
                read()
        tried += 1
    assert (
        tried >= faults.get("a checkpoint written before checksums existed, damaged or not").times
    )


# --- records ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("LINFDIST_RUNS", str(tmp_path / "runs"))
    (tmp_path / "weights").write_bytes(b"weights")
    columns = ("label", "predicted", "certified_margin", "certified_interval", "survived_pgd")
    table = pd.DataFrame({name: [0, 1, 1, 0] for name in columns} | {"index": range(4)})
    table = table.assign(margin_radius=0.125, interval_radius=0.25)
    return records.write_run(
        "table1/mnist_net",
        "smoke",
        0,
        config=made_records.config(epochs=1, test_images=4),
        metrics=records.accuracies(table),
        environment=made_records.ENVIRONMENT,
        epochs=[{"epoch": 1, "p": 8.0, "train_accuracy": 0.5}],
        certificates=table,
        seconds=1.5,
        weights=tmp_path / "weights",
    )


def everything(path):
    run = records.read_run(path)
    return run.epochs.to_csv(), run.certificates.to_csv(), run.config, run.metrics, run.environment


@pytest.mark.quick
def test_a_damaged_record_is_never_read(run):
    whole, tried = everything(run.path), 0
    for name in (*records.FILES, records.CHECKSUMS):
        path = run.path / name
        content = path.read_bytes()
        for copy in damaged(content, 70):
            path.write_bytes(copy)
            with pytest.raises(RecordError, match=str(run.path)):
                everything(run.path)
            tried += 1
        path.write_bytes(content)
    assert everything(run.path) == whole
    assert tried >= faults.get("a record cut short, or with a bit flipped").times


RUBBISH = (b"", b"[]", b"[" * 100_000, b"null", b"9" * 5000, b"{}", b"\xff\xfe", b'{"a": NaN}')


def test_a_damaged_record_with_new_checksums_raises_nothing_else(run):
    tried = 0
    for name in records.FILES:
        path = run.path / name
        content = path.read_bytes()
        for copy in (*damaged(content, 80), *RUBBISH):
            path.write_bytes(copy)
            made_records.seal(run.path)
            try:
                everything(run.path)
            except RecordError as error:
                assert str(run.path) in str(error)
            tried += 1
        path.write_bytes(content)
    assert tried >= faults.get("a damaged record with checksums of the damaged files").times


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", "0", "a value of the wrong type in seed"),
        ("metrics", {"clean_accuracy": "1"}, "a value of the wrong type in clean_accuracy"),
        ("other", 1, "must have the keys of a run"),
    ],
)
def test_metrics_of_other_types_are_named(run, key, value, message):
    import json

    path = run.path / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    made_records.seal(run.path)
    with pytest.raises(RecordError, match=message):
        records.read_run(run.path)


@pytest.mark.parametrize("instead", [None, "a folder", "another file's"])
def test_a_record_without_its_checksums_is_refused(run, instead):
    path = run.path / records.CHECKSUMS
    path.unlink()
    if instead == "a folder":
        path.mkdir()
    elif instead:
        path.write_text(f"{'0' * 64}  other.csv\n")
    message = "must have a line for each of" if instead == "another file's" else "it has none"
    with pytest.raises(RecordError, match=f"SHA256SUMS.*{message}.*Restore it from version"):
        records.read_run(run.path)


def test_a_damaged_file_that_stands_alone_is_named_or_says_the_same(tmp_path):
    path, content = tmp_path / "cpu.json", {"rows": [{"p": "∞", "seconds": 1.5e-7}], "sha": None}
    replace_file(path, sealed_text(content))
    whole, tried = path.read_bytes(), 0
    assert read_sealed(path) == content
    for copy in (*damaged(whole, 400), *RUBBISH, json_text(content).encode(), b'{"a": "\\ud800"}'):
        path.write_bytes(copy)
        try:
            assert read_sealed(path) == content
        except RecordError as error:
            assert str(path) in str(error)
        tried += 1
    assert tried >= faults.get("a bench or an attack cut short, or with a bit flipped").times


# --- data sets ----------------------------------------------------------------------------------


def only_data_errors(read, copies):
    tried = 0
    for copy in copies:
        try:
            read(copy)
        except DataError:
            pass
        tried += 1
    assert tried >= faults.get("rubbish in place of a data file").times // 4


@pytest.mark.parametrize("trailing", [(), (3, 2)])
def test_idx_files(trailing):
    shape = (4, *trailing)
    head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    body = np.arange(np.prod(shape), dtype=np.uint8)
    whole = head + body.tobytes()
    assert np.array_equal(readers.read_idx(Path("x"), whole, trailing), body.reshape(shape))

    def read(content):
        array = readers.read_idx(Path("x"), content, trailing)
        assert array.shape[1:] == trailing and array.tobytes() == content[len(head) :]

    only_data_errors(read, damaged(whole, 400))
    for size in range(len(whole)):
        with pytest.raises(DataError, match="x must be an IDX file of bytes of shape"):
            read(whole[:size])


def test_cifar10_records():
    whole = np.random.default_rng(0).bytes(2 * 3073)
    assert readers.read_records(Path("x"), whole).tobytes() == whole

    def read(content):
        assert readers.read_records(Path("x"), content).tobytes() == content

    only_data_errors(read, damaged(whole, 300))
    with pytest.raises(DataError, match="x must hold records of 3073 bytes; it has 6145 bytes"):
        read(whole[:-1])


def test_tinyimagenet_lists(tmp_path):
    (tmp_path / "val").mkdir()
    table = tmp_path / "val" / "val_annotations.txt"
    names = [f"n0{i % 3}" for i in range(30)]
    whole = "".join(f"val_{i}.JPEG\t{name}\t0\t0\t9\t9\n" for i, name in enumerate(names)).encode()

    def read(content):
        table.write_bytes(content)
        for files in tinyimagenet._annotated(tmp_path, ["n00", "n01", "n02"]).values():
            assert all(path.parent == tmp_path / "val" / "images" for path in files)

    read(whole)
    only_data_errors(read, damaged(whole, 300))
    for bad, message in (
        (b"../../secret_1.JPEG\tn00\n", r"a line must begin with val_<number>\.JPEG"),
        (b"val_1.JPEG\n", r"class  of val_1\.JPEG has no folder"),
        (b"val_1.JPEG\tn00\nval_1.JPEG\tn01\n", r"it names val_1\.JPEG twice"),
        (b"\xff", "is not text"),
    ):
        with pytest.raises(DataError, match=message):
            read(bad)
    with pytest.raises(DataError, match="must be called <class>_<number>"):
        tinyimagenet._number(Path("cat.JPEG"))


def test_jpeg_files(tmp_path):
    buffer, path = io.BytesIO(), tmp_path / "x_1.JPEG"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")

    def read(content):
        path.write_bytes(content)
        assert tinyimagenet._decode(path).shape == (3, 64, 64)

    read(buffer.getvalue())
    only_data_errors(read, damaged(buffer.getvalue(), 300))
    for kind in ("PNG", "GIF", "BMP"):
        Image.fromarray(pixels).save(path, kind)
        with pytest.raises(DataError, match="is not a whole JPEG file"):
            tinyimagenet._decode(path)


def test_a_damaged_cache_is_never_used(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
    path, tried = tmp_path / "c.bytes", 0
    tinyimagenet._keep(path, images)
    assert np.array_equal(tinyimagenet._kept(path, images.shape), images)
    assert tinyimagenet._kept(path, (2, 3, 4, 5)) is None
    for copy in damaged(path.read_bytes(), 150):
        path.write_bytes(copy)
        kept = tinyimagenet._kept(path, images.shape)
        assert kept is None or np.array_equal(kept, images)
        tried += 1
    assert tried >= faults.get("a damaged cache of decoded images").times


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    from linfdist.testing import inject

    images = np.zeros((2, 3, 64, 64), np.uint8)
    with inject.full_disk(1000), pytest.raises(DataError, match=r"cannot be written .*XDG_CACHE"):
        tinyimagenet._keep(tmp_path / "c.bytes", images)
    assert [*tmp_path.iterdir()] == []
