"""A text file that is there as a whole or as it was before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mlx_mistral.errors import SessionError
from mlx_mistral.files.disk import flush


def write_whole(path: Path, text: str) -> None:
    """Puts a text in place of a file, readable by its owner alone; a link stays a link.

    Raises: SessionError: it cannot be written; what was there before is still there.
    """
    target = path.resolve()
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                flush(file.fileno())
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise SessionError(
            f"{path} cannot be written: {error.strerror}; choose another place"
        ) from None
