"""The networks here are tiny."""

from collections.abc import Iterator

import pytest
from helpers.threads import one_thread


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    with one_thread():
        yield
