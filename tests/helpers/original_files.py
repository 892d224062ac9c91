"""Small files that pass for a data set's originals."""

import hashlib
from pathlib import Path

import numpy as np

from linfdist.data import readers


def write_original(monkeypatch, folder: Path, name: str, content: bytes) -> None:
    """Write a small file and let it pass for the original."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    originals = dict(readers.ORIGINALS)
    originals[name] = (len(content), hashlib.md5(content).hexdigest())
    monkeypatch.setattr(readers, "ORIGINALS", originals)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.astype(np.uint8).tobytes()
