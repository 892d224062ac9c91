"""How a record's files are written: JSON and CSV texts, seals, and checksums."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from linfdist.system import disk
from linfdist.system.disk import sync_folder
from linfdist.system.disk import write_file as write_file

CHECKSUMS = "SHA256SUMS"  # as `sha256sum -c SHA256SUMS` reads it


SEAL = "sha256"  # of a JSON file that stands alone


class RecordError(RuntimeError):
    """A recorded run cannot be read or written, or is not what its path says."""


def expanded(path: Path | str) -> Path:
    """The path with a leading ``~`` or ``~user`` replaced by that home folder.

    Raises:
        RecordError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RecordError(
            f"{path}: ~ must stand for a home folder; there is none. Set HOME, or write the whole "
            "path."
        ) from error


@contextlib.contextmanager
def named(path: Path, must: str, do: str) -> Iterator[None]:
    """Raise an error of the disk as a RecordError that says which, and what to do.

    ``must`` is what ``path`` must be or become, and ``do`` what follows the advice.
    """
    try:
        yield
    except OSError as error:
        raise RecordError(f"{path} must {must} ({error}). {disk.advice(error)}{do}") from error


def json_text(value: dict[str, Any]) -> str:
    """Indented JSON; ValueError for a number that JSON has not."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sealed_text(content: dict[str, Any]) -> str:
    """``json_text`` with a last key more: "sha256", of the text without it."""
    return json_text(content | {SEAL: hashlib.sha256(json_text(content).encode()).hexdigest()})


def csv_text(table: pd.DataFrame) -> str:
    """Numbers to six digits, but radii to six decimals and downward; truth values as 0 and 1."""
    flags = {name: "Int8" for name in table if pd.api.types.is_bool_dtype(table[name])}
    radii = {
        name: _exactly_below(table[name]) if name == "sound_radius" else _radii(table[name])
        for name in table
        if str(name).endswith("_radius")
    }
    return table.astype(flags).assign(**radii).to_csv(index=False, float_format="%.6g")


def _radii(radii: pd.Series) -> pd.Series:
    """Six decimals, never above the radius that was certified; missing ones stay missing."""
    millionths = np.round(radii * 1e6)
    millionths -= millionths / 1e6 > radii
    return _decimals(millionths)


def _exactly_below(radii: pd.Series) -> pd.Series:
    """The same where the decimals are the claim: the float64 0.3 lies below 0.3, so 0.299999."""
    return _decimals(radii.map(lambda radius: Fraction(radius) * 10**6 // 1, na_action="ignore"))


def _decimals(millionths: pd.Series) -> pd.Series:
    return (millionths / 1e6).map("{:.12g}".format, na_action="ignore")


def replace_file(path: Path, text: str) -> None:
    """Write a file whole or not at all; RecordError if it cannot be: what was there is kept."""
    with named(path, "be written whole; it cannot be", ". What was there before is kept."):
        disk.replace_file(path, text)


def try_file(path: Path) -> None:
    """RecordError unless ``replace_file`` can write there: called before the work that it keeps."""
    with named(path, "be a file that can be written; it cannot be", ". Nothing was done yet."):
        disk.try_file(path)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files by name, and their checksums, and wait until the disk has them all."""
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    for name, text in texts.items():
        write_file(folder / name, text)
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    write_file(folder / CHECKSUMS, "".join(lines))
    sync_folder(folder)
