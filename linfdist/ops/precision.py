"""The precision of torch's float32 matrix products, for a while."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """``torch.set_float32_matmul_precision(name)`` inside, and what it was before afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
