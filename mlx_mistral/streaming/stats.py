"""What streaming did, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class StreamingStats:
    """Since loading, or since `reset`. An expert counts once for each pass through its layer."""

    hits: int = 0
    """Experts in memory when they were chosen, some because they were read ahead."""
    late: int = 0
    """Experts that were being read ahead, and waited for."""
    misses: int = 0
    """Experts whose reading began when they were chosen."""
    read_ahead: int = 0
    """Experts whose reading began on a guess."""
    bytes_read: int = 0
    wait_seconds: float = 0.0
    """Time in which the computation waited for experts."""

    @property
    def chosen(self) -> int:
        return self.hits + self.late + self.misses

    @property
    def hit_rate(self) -> float:
        """Share of the chosen experts that were in memory; 0 before the first."""
        return self.hits / self.chosen if self.chosen else 0.0

    def reset(self) -> None:
        """Counts from here on."""
        for name, value in StreamingStats().as_dict().items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, int | float]:
        """The counters by name, to print or store."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}
