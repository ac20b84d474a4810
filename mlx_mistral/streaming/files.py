"""Weight files kept open and read at any place, from any thread."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.disk import read_into
from mlx_mistral.files.untrusted import open_regular


class OpenFiles:
    """Files that must not change for as long as they are open."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises: CheckpointError: one cannot be opened."""
        self._files = {path: open_regular(path)[0] for path in sorted(set(paths))}
        self._states = {path: _state(file.fileno()) for path, file in self._files.items()}

    def read_into(self, buffer: memoryview, path: Path, begin: int) -> None:
        """Fills a buffer of bytes from a place in a file; nothing is copied on the way.

        Raises: CheckpointError: the disk fails, or the file is not what it was when opened.
        """
        try:
            descriptor = self._files[path].fileno()
            n_read = read_into(descriptor, buffer, begin)
            is_same = _state(descriptor) == self._states[path]
        except (OSError, ValueError) as error:  # ValueError: closed
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(
                f"{path} cannot be read: {reason}; see that its disk is there, then load it again"
            ) from None
        if n_read < len(buffer) or not is_same:
            raise CheckpointError(
                f"{path} changed while its experts were read; put the model back and load it again"
            )

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _state(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns
