"""What a command line leaves behind, and what a failure must look like."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


def failed_in_one_line(ended: Ended) -> bool:
    """Status 1, nothing on stdout, one line on stderr."""
    lines = ended.err.splitlines()
    return (ended.status, ended.out, len(lines)) == (1, "", 1) and lines[0].startswith("error: ")
