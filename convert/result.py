"""What a conversion tells while it runs and when it is done."""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import Plan
from .stored import StoredTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a conversion is, in bytes of the source."""

    done_bytes: int
    total_bytes: int
    parameter: str
    """What is being worked on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What came of it."""

    dest: Path
    plan: Plan
    source_bytes: int
    weight_bytes: int
    parameters: int
    """Weights of the model, however many bits each takes."""
    bytes_by_kind: Mapping[str, int]
    """Where the bits went: bytes of all v_proj, of the head, and so on."""
    tensors: int
    seconds: float
    peak_memory_bytes: int
    """Resident memory of the whole process at its highest, as the system counts it."""
    note: str | None
    """What was found of an earlier run."""

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weight_bytes / self.parameters

    def to_json(self) -> dict[str, Any]:
        return {
            "weight_bytes": self.weight_bytes,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "tensors": self.tensors,
            "seconds": round(self.seconds, 3),
            "peak_memory_bytes": self.peak_memory_bytes,
            "plan": self.plan.to_json(),
            "source_bytes": self.source_bytes,
            "bytes_by_kind": dict(self.bytes_by_kind),
            "dest": str(self.dest),
            "note": self.note,
        }


def bytes_by_kind(tensors: Mapping[str, list[StoredTensor]]) -> dict[str, int]:
    """By the name of the module, the largest first; norms and routers are `other`."""
    counted: Counter[str] = Counter()
    for name, made in tensors.items():
        kind = name.split(".")[-2]
        known = kind.endswith("_proj") or kind in ("embed_tokens", "lm_head")
        counted[kind if known else "other"] += sum(tensor.nbytes for tensor in made)
    return dict(counted.most_common())


def peak_resident_bytes() -> int:
    """The most memory this process has had, as the system counts it.

    Linux's getrusage also counts what the parent had when it started this process.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
