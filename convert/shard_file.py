"""A safetensors file that is written in pieces, in any order, and read back before it counts."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

from mlx_mistral.errors import ConversionError
from mlx_mistral.files.disk import flush, write_all

from .shards import Shard

UNFINISHED = ".part"
_READ_BYTES = 4 << 20


class ShardFile:
    """A shard on disk, named `….part` until it is finished."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        """Raises: OSError: it cannot be created."""
        self.shard = shard
        self._final = folder / shard.name
        self._path = folder / f"{shard.name}{UNFINISHED}"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o644)
        self._written: list[tuple[int, int, int]] = []
        """Of each piece its first byte, its length and its checksum."""
        os.ftruncate(self._descriptor, shard.nbytes)
        self._write_at(0, memoryview(shard.header))

    def write(self, name: str, first_row: int, rows: memoryview) -> None:
        """Some rows of a tensor, as bytes. Raises: OSError."""
        tensor = self.shard.tensors[name]
        row_bytes = tensor.nbytes // tensor.rows
        begin = first_row * row_bytes
        if rows.nbytes % row_bytes or begin + rows.nbytes > tensor.nbytes:
            raise ConversionError(
                f"{name}: {rows.nbytes} bytes at row {first_row} do not fit {tensor.shape}; "
                "this is a fault of the converter, please report it"
            )
        self._write_at(self.shard.begins[name] + begin, rows)

    def finish(self) -> str:
        """Puts it on the disk, reads it back, and gives it its name. Returns the SHA-256.

        Raises: ConversionError: what is read is not what was written. OSError.
        """
        try:
            flush(self._descriptor)
            digest = self._read_back()
        finally:
            self.close()
        os.replace(self._path, self._final)
        return digest

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write_at(self, position: int, data: memoryview) -> None:
        self._written.append((position, data.nbytes, zlib.crc32(data)))
        write_all(self._descriptor, data, position)

    def _read_back(self) -> str:
        digest, position = hashlib.sha256(), 0
        for begin, length, expected in sorted(self._written):
            if begin != position:
                raise ConversionError(
                    f"{self._path}: {begin - position} bytes were never written; "
                    "this is a fault of the converter, please report it"
                )
            checksum = 0
            while position < begin + length:
                wanted = min(_READ_BYTES, begin + length - position)
                chunk = os.pread(self._descriptor, wanted, position)
                if not chunk:
                    break
                digest.update(chunk)
                checksum = zlib.crc32(chunk, checksum)
                position += len(chunk)
            if checksum != expected:
                raise ConversionError(
                    f"{self._path}: the disk gives back other bytes than were written; "
                    "check the disk, then try again"
                )
        if position != self.shard.nbytes:
            raise ConversionError(
                f"{self._path}: {self.shard.nbytes - position} bytes were never written; "
                "this is a fault of the converter, please report it"
            )
        return digest.hexdigest()
