"""A text that is on disk, or the part of it that one file holds."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLUMNS = "id, key, base, start, ids, whole, file, nbytes, digest"
Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A text whose keys and values are on disk, from `start` on in a file of its own."""

    id: int
    key: str
    base: int | None
    """The entry that holds what comes before `start`; None: there is nothing before."""
    start: int
    ids: Ids
    """Of the text from its beginning."""
    whole: bool
    """A ring has wrapped: only the text as a whole can be gone on with."""
    file: str
    nbytes: int
    digest: bytes

    def __len__(self) -> int:
        return len(self.ids)

    def shares(self, ids: Ids) -> int:
        """How many tokens of another text this entry can give."""
        n = min(len(self.ids), len(ids))
        differ = np.flatnonzero(self.ids[:n] != ids[:n])
        common = int(differ[0]) if differ.size else n
        return common if not self.whole or common == len(self.ids) else 0


def from_row(
    id: int,
    key: str,
    base: int | None,
    start: int,
    ids: bytes,
    whole: int,
    file: str,
    nbytes: int,
    digest: bytes,
) -> Entry:
    """Raises: sqlite3.DatabaseError: the row is damaged."""
    numbers = (id, start, whole, nbytes)
    if not (
        all(isinstance(one, int) for one in numbers)
        and isinstance(ids, bytes)
        and len(ids) % 4 == 0
        and 0 <= start < len(ids) // 4
        and isinstance(file, str)
        and re.fullmatch(r"[0-9a-f]+\.safetensors", file)
    ):
        raise sqlite3.DatabaseError(f"entry {id} is malformed")
    return Entry(
        id=id,
        key=key,
        base=base,
        start=start,
        ids=np.frombuffer(ids, np.int32),
        whole=bool(whole),
        file=file,
        nbytes=nbytes,
        digest=digest,
    )
