"""What the transcript shows, one entry a message or notice."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_mistral.live.events import Progress
from mlx_mistral.sessions.tree import Statistics

NAMES = {
    "user": "You",
    "assistant": "Model",
    "system": "System",
    "notice": "Note",
    "error": "Error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message as it stands in the transcript; `id` is None for what is not part of the tree."""

    role: str
    text: str
    """As it was written: cleaned only where it is shown."""
    id: int | None = None
    version: tuple[int, int] = (1, 1)
    """Which of how many."""
    note: str = ""
    """A line below the text."""
    live: bool = False
    """A reply that is being made."""

    @property
    def header(self) -> str:
        name = NAMES.get(self.role, self.role)
        place, versions = self.version
        return f"{name} · {place} of {versions}" if versions > 1 else name


def read_note(progress: Progress, reason: str) -> str:
    """How much of the prompt was computed and how the reply went."""
    parts = [
        _read(progress.prompt_tokens, progress.reused_tokens),
        _wrote(progress.reply_tokens, progress.decode_tps),
    ]
    return " · ".join([*parts, *_ending(reason)])


def kept_note(statistics: Statistics | None) -> str:
    """The same of a reply of an earlier day, as far as it was kept."""
    if statistics is None:
        return ""
    counted = (statistics.prompt_tokens, statistics.reused_tokens)
    read = [] if None in counted else [_read(*counted)]  # type: ignore[arg-type]
    made = _wrote(statistics.tokens, statistics.tps)
    return " · ".join([*read, made, *_ending(statistics.reason)])


def _read(prompt: int, reused: int) -> str:
    new = prompt - reused
    return f"read {new:,} new {_tokens(new)}, {reused:,} reused"


def _wrote(count: int, tps: float) -> str:
    return f"wrote {count:,} at {tps:,.1f} tokens/s"


def _tokens(count: int) -> str:
    return "token" if count == 1 else "tokens"


def _ending(reason: str) -> list[str]:
    return {"stop": [], "length": ["cut at the longest length"]}.get(reason, [reason])
