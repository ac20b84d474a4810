"""A store in a folder of its own, with a clock that a test sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sessions.clock import Clock

from mlx_mistral.sessions import Store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions.sqlite3"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[Store]:
    with Store(path, clock=clock) as store:
        yield store


@pytest.fixture
def other(path: Path, clock: Clock, store: Store) -> Iterator[Store]:
    """Another window on the same file."""
    with Store(path, clock=clock) as other:
        yield other
