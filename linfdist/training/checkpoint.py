"""Checkpoints: written atomically, with a checksum. A file is read whole or refused by name."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import lock_descriptor

from linfdist.system import disk, values
from linfdist.system.disk import sync_folder

FORMAT = 2  # the file ends in the SHA-256 of its content; format 1 had none, and is not read
_TRAILER = re.compile(rb"sha256 ([0-9a-f]{64})\n")
_TRAILER_BYTES = 72


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, belongs to another run, or cannot be written."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Where ``fit`` keeps a run's state, and what it stores beside the state.

    Args:
        path: the file. A ``~`` in front stands for the home folder.
        restart: delete the file first, whatever it holds.
        experiment: a name, stored in the file; a run with another name cannot resume from it.
        environments: plain values that say what this call and earlier ones ran on, one dictionary
            per call. The file keeps them for ``environments``; they have no effect on training.

    Raises:
        TypeError, ValueError: a value has another type, or cannot be saved.
    """

    path: os.PathLike[str] | str
    _: KW_ONLY
    restart: bool = False
    experiment: str = ""
    environments: Sequence[dict[str, Any]] = ()

    def __post_init__(self) -> None:
        path = values.file(self.path, "CheckpointConfig: path")
        values.flag(self.restart, "CheckpointConfig: restart")
        if not isinstance(self.experiment, str):
            raise TypeError(
                f"CheckpointConfig: experiment must be text; got {values.shown(self.experiment)}."
            )
        calls = values.plain(list(self.environments), "CheckpointConfig: environments")
        if not all(isinstance(call, dict) for call in calls):
            raise TypeError(
                f"CheckpointConfig: environments must be dictionaries; got {self.environments!r}."
            )
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "environments", tuple(calls))


def save(path: os.PathLike[str] | str, fingerprint: dict[str, Any], state: dict[str, Any]) -> None:
    """Write ``state`` so that a crash at any moment leaves the old file or the new one.

    ``fingerprint``, JSON values, identifies the run that the state belongs to. ``state`` holds
    tensors, numbers, strings, lists and dictionaries.

    Raises:
        CheckpointError: the file cannot be written, or another process is writing it. The old file
            stays.
    """
    path = Path(path)
    temporary = _temporary(path)
    text = json.dumps(fingerprint, sort_keys=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(temporary) as file:
            hashed = _Hashed(file)
            content = {"format": FORMAT, "fingerprint": text, "state": state}
            torch.save(content, hashed)  # type: ignore[arg-type]  # write and flush are enough
            file.write(f"sha256 {hashed.digest.hexdigest()}\n".encode())
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)  # the rename itself survives a power cut
    except (OSError, RuntimeError) as error:
        # torch.save replaces a disk error by its own error about positions in the file.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise CheckpointError(
            f"checkpoint: {path} must be written completely; writing it failed ({cause}). The last "
            f"complete checkpoint is kept. {disk.advice(cause)}. Then repeat the call to continue."
        ) from error


def try_saving(path: os.PathLike[str] | str) -> None:
    """CheckpointError unless ``save`` can write to ``path``; called before training starts."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.refuse_folder(path)
        temporary = _temporary(path)
        with _alone(temporary) as file:
            file.write(b"\n")
            file.flush()
            disk.remove(temporary)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint: {path} must be a file that can be written; writing it failed ({error}). "
            f"{disk.advice(error)}. Nothing was trained yet."
        ) from error


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


class _Hashed:
    """A writable file, with the SHA-256 of the bytes written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@contextlib.contextmanager
def _alone(temporary: Path) -> Iterator[BinaryIO]:
    """An empty file that no other process writes to; deleted if the ``with`` block raises."""
    descriptor = disk.open_own(temporary)
    with os.fdopen(descriptor, "wb") as file:
        try:
            # A FileLock holds a path; this file is renamed. The process that held the lock before
            # may have renamed it to its checkpoint.
            ours = lock_descriptor(descriptor, blocking=False) and os.path.samestat(
                os.fstat(descriptor), os.stat(temporary)
            )
        except FileNotFoundError:
            ours = False
        if not ours:
            raise CheckpointError(
                f"checkpoint: {temporary} must be written by one process; another process is "
                "writing it. Stop one of the two processes, or give one of them another path."
            )
        try:
            file.truncate(0)
            yield file
        except Exception:
            temporary.unlink(missing_ok=True)  # the file would keep a full disk full
            raise


def load(
    path: os.PathLike[str] | str, fingerprint: dict[str, Any], device: torch.device | str
) -> dict[str, Any]:
    """The state that ``save`` wrote with this fingerprint.

    Raises:
        CheckpointError: the file is damaged, or belongs to another run.
    """
    path = Path(path)
    recorded, state = _read(path, device)
    wanted = json.loads(json.dumps(fingerprint))
    if recorded != wanted:
        raise CheckpointError(
            f"checkpoint: {path} must belong to this run; it differs in "
            f"{'; '.join(differences(recorded, wanted))}. Use another path, or pass restart=True "
            "to throw it away."
        )
    return state


def environments(path: os.PathLike[str] | str) -> list[dict[str, Any]]:
    """What the calls of a run up to this checkpoint ran on; empty if ``fit`` got none."""
    return list(_read(Path(path), "cpu", mmap=True)[1].get("environments", []))


def damaged(path: os.PathLike[str] | str, error: object) -> CheckpointError:
    """The error for a file that is not a whole checkpoint."""
    return CheckpointError(
        f"checkpoint: {path} must be a whole checkpoint; reading it failed ({error}). Training "
        "does not start over by itself: delete the file or pass restart=True."
    )


def _read(path: Path, device: torch.device | str, **how: bool) -> tuple[Any, dict[str, Any]]:
    """Fingerprint and state."""
    try:
        has_checksum = _check(path)
        content = torch.load(path, map_location=device, weights_only=True, **how)
        version, fingerprint = content["format"], json.loads(content["fingerprint"])
        state = content["state"]
        if not all(isinstance(call, dict) for call in state.get("environments", [])):
            raise ValueError("its environments are not dictionaries")
        if version == FORMAT and not has_checksum:
            raise ValueError("its checksum is missing")
    except Exception as error:  # damaged bytes make torch.load raise any error
        raise damaged(path, error) from error
    if version != FORMAT:
        raise CheckpointError(
            f"checkpoint: {path} must have format {FORMAT}; got {version}. It was written by "
            "another version of linfdist: delete it or pass restart=True."
        )
    return fingerprint, state


def _check(path: Path) -> bool:
    """Whether the file ends in a checksum; ValueError if the checksum is wrong."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = max(0, path.stat().st_size - _TRAILER_BYTES)
        while part := file.read(min(left, 1 << 20)):
            digest.update(part)
            left -= len(part)
        trailer = _TRAILER.fullmatch(file.read())
    if trailer and trailer[1].decode() != digest.hexdigest():
        raise ValueError(f"its SHA-256 must be {trailer[1].decode()}; it is {digest.hexdigest()}")
    return trailer is not None


def differences(recorded: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two JSON values differ: one "field: recorded, wanted" per difference."""
    if isinstance(recorded, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(recorded.keys() | wanted.keys())
            for line in differences(recorded.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if recorded == wanted else [f"{name}: {recorded!r} there, {wanted!r} here"]
