"""Write and read the files of a record: JSON and CSV texts, seals and checksums."""

import contextlib
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from linfdist.system import disk
from linfdist.system.disk import sync_folder
from linfdist.system.disk import write_file as write_file

CHECKSUMS = "SHA256SUMS"  # in the format of `sha256sum -c SHA256SUMS`
SEAL = "sha256"  # key of the checksum in a JSON file that SHA256SUMS does not list


class RecordError(RuntimeError):
    """A recorded run cannot be read or written, or belongs at another path."""


def expanded(path: Path | str) -> Path:
    """The path with a leading ``~`` or ``~user`` replaced by the home folder that it names.

    Raises:
        RecordError: the home folder does not exist.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RecordError(
            f"{path}: ~ must stand for a home folder; no home folder is known. Set HOME, or write "
            "the whole path."
        ) from error


@contextlib.contextmanager
def named(path: Path, must: str, do: str) -> Iterator[None]:
    """Turn an OSError into a RecordError that names the path and says what to do.

    ``must`` completes the sentence "``path`` must …". ``do`` is appended to the advice.
    """
    try:
        yield
    except OSError as error:
        raise RecordError(f"{path} must {must} ({error}). {disk.advice(error)}{do}") from error


def json_text(value: dict[str, Any]) -> str:
    """Indented JSON; raises ValueError for a number that JSON cannot hold, such as NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def sealed_text(content: dict[str, Any]) -> str:
    """``json_text`` with one more key at the end: "sha256", the hash of the text without it."""
    return json_text(content | {SEAL: hashlib.sha256(json_text(content).encode()).hexdigest()})


def csv_text(table: pd.DataFrame) -> str:
    """A table as CSV.

    Numbers have six significant digits. Radii have six decimals and are rounded down. Bools are
    written as 0 and 1.
    """
    flags = {name: "Int8" for name in table if pd.api.types.is_bool_dtype(table[name])}
    radii = {
        name: _exactly_below(table[name]) if name == "sound_radius" else _radii(table[name])
        for name in table
        if str(name).endswith("_radius")
    }
    return table.astype(flags).assign(**radii).to_csv(index=False, float_format="%.6g")


def _radii(radii: pd.Series) -> pd.Series:
    """Radii to six decimals, never above the certified radius; missing radii stay missing."""
    millionths = np.round(radii * 1e6)
    millionths -= millionths / 1e6 > radii
    return _decimals(millionths)


def _exactly_below(radii: pd.Series) -> pd.Series:
    """Radii to six decimals, rounded down from the exact value of the float64.

    The decimals themselves are the claim. The float64 nearest to 0.3 lies below 0.3, so it is
    written as 0.299999.
    """
    return _decimals(radii.map(lambda radius: Fraction(radius) * 10**6 // 1, na_action="ignore"))


def _decimals(millionths: pd.Series) -> pd.Series:
    return (millionths / 1e6).map("{:.12g}".format, na_action="ignore")


def replace_file(path: Path, text: str) -> None:
    """Write a file atomically. If that fails, raise RecordError and keep the previous file."""
    with named(path, "be written completely; writing it failed", ". The previous file is kept."):
        disk.replace_file(path, text)


def try_file(path: Path) -> None:
    """Raise RecordError unless ``replace_file`` can write there. Call this before the work."""
    with named(path, "be a file that can be written; writing it failed", ". Nothing was done yet."):
        disk.try_file(path)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files by name and their checksums, and wait until all are on the disk."""
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    for name, text in texts.items():
        write_file(folder / name, text)
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    write_file(folder / CHECKSUMS, "".join(lines))
    sync_folder(folder)


def read_checksums(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each file of a record.

    Raises:
        RecordError: SHA256SUMS is missing or damaged, or lists other files.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        raise RecordError(
            f"{folder} must have {CHECKSUMS}, a file with the SHA-256 of each file; it has none. "
            "Restore it from version control, or delete the folder and run it again."
        )
    lines = re.findall(r"([0-9a-f]{64})  (\S+)\n|(.+\n?)", read_text(path))
    digests = {name: digest for digest, name, other in lines if not other}
    if sorted(digests) != sorted(names) or len(lines) != len(names):
        raise RecordError(
            f"{path} must have a line for each of {', '.join(names)}; it has {len(lines)} lines. "
            "Restore it from version control."
        )
    return digests


def read_text(path: Path, digest: str | None = None) -> str:
    """The text of a file; raises RecordError if it is not text or its SHA-256 is not ``digest``."""
    with named(path, "be a file that can be read; reading it failed", "."):
        content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if digest not in (None, actual):
        raise RecordError(
            f"{path} must have the recorded SHA-256 {digest}; it has {actual}. The file has "
            "changed since it was written: restore it from version control."
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not text: {error}. Restore it.") from error


def read_json(path: Path, digest: str | None = None) -> dict[str, Any]:
    """A JSON object; raises RecordError for anything else.

    NaN, which is not JSON, and numbers that no float holds, such as 1e999, are refused too.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"it has {constant}")

    def finite(text: str) -> float:
        if math.isinf(number := float(text)):
            raise ValueError(f"it has {text}, which no float can hold")
        return number

    text = read_text(path, digest)
    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON: {error}. Restore it.") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RecordError(f"{path} must be a JSON object; it is of type {kind}. Restore it.")
    return value


def read_sealed(path: Path) -> dict[str, Any]:
    """The content that ``sealed_text`` wrote; raises RecordError for anything else."""
    content = read_json(path)
    digest = content.pop(SEAL, None)
    try:
        actual = hashlib.sha256(json_text(content).encode()).hexdigest()
    except ValueError as error:  # for example, half a surrogate pair
        raise RecordError(f"{path} is not JSON text: {error}. Restore it.") from error
    if digest != actual:
        raise RecordError(
            f"{path} must have contents with the {SEAL} that it names, {digest}; theirs is "
            f"{actual}. The file has changed since it was written: restore it, or delete it and "
            "make it again."
        )
    return content


def read_table(path: Path, digest: str | None = None) -> pd.DataFrame:
    """A CSV table; raises RecordError for anything else."""
    try:
        return pd.read_csv(io.StringIO(read_text(path, digest)), low_memory=False)
    except ValueError as error:
        raise RecordError(f"{path} is not a CSV table: {error}. Restore it.") from error
