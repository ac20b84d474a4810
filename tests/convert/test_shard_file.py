"""A shard counts only when every byte of it has been read back from the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mlx_mistral.convert.shard_file import ShardFile
from mlx_mistral.convert.shards import Shard, arrange
from mlx_mistral.convert.stored import StoredTensor
from mlx_mistral.errors import ConversionError

ROWS, COLUMNS = 6, 4


@pytest.fixture
def shard() -> Shard:
    tensor = StoredTensor(name="a", dtype="U8", shape=(ROWS, COLUMNS))
    (shard,) = arrange({"a": [tensor]})
    return shard


def rows(first: int, count: int) -> memoryview:
    return memoryview(bytes(range(first * COLUMNS, (first + count) * COLUMNS)))


@pytest.mark.parametrize("order", [[(0, 6)], [(0, 2), (2, 4)], [(4, 2), (0, 1), (1, 3)]])
def test_pieces_in_any_order_make_the_file(
    order: list[tuple[int, int]], shard: Shard, tmp_path: Path
) -> None:
    file = ShardFile(tmp_path, shard)
    for first, count in order:
        file.write("a", first, rows(first, count))
    file.finish()
    assert (tmp_path / shard.name).read_bytes() == shard.header + bytes(rows(0, ROWS))


@pytest.mark.parametrize("written", [[(0, 2), (3, 3)], [(2, 4)], [(0, 5)], []])
def test_a_hole_is_noticed_and_the_file_gets_no_name(
    written: list[tuple[int, int]], shard: Shard, tmp_path: Path
) -> None:
    file = ShardFile(tmp_path, shard)
    for first, count in written:
        file.write("a", first, rows(first, count))
    with pytest.raises(ConversionError, match="bytes were never written"):
        file.finish()
    assert not (tmp_path / shard.name).exists()


@pytest.mark.parametrize(("first", "count"), [(5, 2), (6, 1)])
def test_rows_beyond_the_tensor_are_refused(
    first: int, count: int, shard: Shard, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match="do not fit"):
        ShardFile(tmp_path, shard).write("a", first, rows(first, count))


def test_it_is_on_the_disk_before_it_has_its_name(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str) -> Any:
        call = getattr(os, name)

        def wrapped(*args: Any) -> Any:
            calls.append(name)
            return call(*args)

        return wrapped

    file = ShardFile(tmp_path, shard)
    for name in ("pwrite", "fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    file.write("a", 0, rows(0, ROWS))
    file.finish()
    assert calls == ["pwrite", "fsync", "replace"]
