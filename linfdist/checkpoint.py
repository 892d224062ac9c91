"""Checkpoints: written atomically, read back whole or refused by name."""

import json
import os
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, or belongs to another run."""


def save(path: Path, fingerprint: dict[str, Any], state: dict[str, Any]) -> None:
    """Write ``state`` so that a crash at any moment leaves the old file or the new one.

    ``fingerprint``, JSON, says which run the state belongs to. ``state`` holds tensors, numbers,
    strings, lists and dictionaries.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        text = json.dumps(fingerprint, sort_keys=True)
        torch.save({"format": FORMAT, "fingerprint": text, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself survives a power cut
    finally:
        os.close(folder)


def load(path: Path, fingerprint: dict[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The state that ``save`` wrote for this fingerprint; ``CheckpointError`` for anything else."""
    version, found, state = _read(path, device)
    if version != FORMAT:
        raise CheckpointError(
            f"checkpoint: {path} must have format {FORMAT}; got {version}. It was written by "
            "another version of linfdist: delete it or pass restart=True."
        )
    wanted = json.loads(json.dumps(fingerprint))
    if found != wanted:
        raise CheckpointError(
            f"checkpoint: {path} must belong to this run; it differs in "
            f"{'; '.join(differences(found, wanted))}. Use another path, or pass restart=True to "
            "throw it away."
        )
    return state


def surroundings(path: Path) -> list[dict[str, Any]]:
    """What the calls of a run up to this checkpoint ran on; none if it was not told."""
    return list(_read(path, "cpu", mmap=True)[2].get("surroundings", []))


def _read(path: Path, device: torch.device | str, **how: bool) -> tuple[Any, Any, dict[str, Any]]:
    """Format, fingerprint and state."""
    try:
        content = torch.load(path, map_location=device, weights_only=True, **how)
        return content["format"], json.loads(content["fingerprint"]), content["state"]
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        raise CheckpointError(
            f"checkpoint: {path} must be a whole checkpoint; it cannot be read ({error}). Training "
            "does not start over by itself: delete the file or pass restart=True."
        ) from error


def differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    """Where two JSON values differ, one "field: found, wanted" each."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(found.keys() | wanted.keys())
            for line in differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if found == wanted else [f"{name}: {found!r} there, {wanted!r} here"]
