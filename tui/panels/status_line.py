"""One line of figures: how fast, how full, how much memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from mlx_mistral.live.events import (
    Event,
    Failed,
    Finished,
    Loaded,
    LoadFailed,
    Loading,
    ModelFacts,
    Progress,
    Reading,
)
from mlx_mistral.tui.visible import clipped, one_line

from .figures import bytes_text, percent_text, rate_text

_BETWEEN = " · "


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The latest of what a model's thread has told."""

    facts: ModelFacts | None = None
    progress: Progress | None = None
    activity: Loading | Reading | None = None


def after(status: Status, event: Event) -> Status:
    """What is known once an event has come; the same object where it tells nothing of this."""
    match event:
        case Loading():
            return Status(activity=event)
        case Loaded():
            return Status(facts=event.facts)
        case LoadFailed():
            return Status()
        case Reading():
            return replace(status, activity=event)
        case Progress():
            return replace(status, progress=event, activity=None)
        case Finished():
            return replace(status, progress=event.progress, activity=None)
        case Failed() if status.activity is not None:
            return replace(status, activity=None)
        case _:
            return status


@dataclass(frozen=True, slots=True)
class _Part:
    """A figure in words and in short; the lower the rank, the later it is dropped."""

    rank: int
    words: str
    short: str


def text(progress: Progress | None, facts: ModelFacts | None, width: int) -> str:
    """The figures of a reply in at most `width` cells, the least important left out."""
    if progress is not None:
        return _fitted(_of_reply(progress, facts), width)
    return _fitted(_of_model(facts), width) if facts else clipped("no model", width)


def activity_text(activity: Loading | Reading, width: int) -> str:
    """What is being waited for, in at most `width` cells."""
    if isinstance(activity, Loading):
        done = f" {percent_text(activity.done, activity.total)}" if activity.total else ""
        return clipped(f"{one_line(activity.stage)}{done}: {one_line(activity.model)}", width)
    parts = [_Part(0, f"reading {activity.done:,} of {activity.total:,} tokens",
                   f"reading {percent_text(activity.done, activity.total)}")]  # fmt: skip
    if activity.reused:
        kept = f"{activity.reused:,} kept"
        parts.append(_Part(1, f"{activity.reused:,} were in the cache", kept))
    return _fitted(parts, width)


def _of_reply(progress: Progress, facts: ModelFacts | None) -> list[_Part]:
    decode, prefill = rate_text(progress.decode_tps), rate_text(progress.prefill_tps)
    parts = [
        _Part(0, f"{decode} tokens/s", f"{decode} tok/s"),
        _Part(3, f"prefill {prefill} tokens/s", f"pre {prefill}"),
    ]
    if progress.first_token_seconds is not None:
        first = f"{progress.first_token_seconds:.2f} s"
        parts.append(_Part(4, f"first token {first}", f"first {first}"))
    used, context = progress.cache_tokens, facts.context if facts else None
    if context:
        share = percent_text(used, context)
        whole = f"{used:,} of {context:,} tokens ({share})"
        parts.append(_Part(1, whole, f"{used:,}/{context:,}"))
    else:
        parts.append(_Part(1, f"{used:,} tokens", f"{used:,} tok"))
    cache = bytes_text(progress.cache_bytes)
    parts.append(_Part(5, f"cache {cache}", f"kv {cache}"))
    memory, limit = bytes_text(progress.memory_bytes), bytes_text(progress.memory_limit_bytes)
    short = f"mem {percent_text(progress.memory_bytes, progress.memory_limit_bytes)}"
    parts.append(_Part(2, f"memory {memory} of {limit}", short))
    return parts


def _of_model(facts: ModelFacts) -> list[_Part]:
    name, weights = one_line(facts.name), bytes_text(facts.weight_bytes)
    bits = f"{facts.bits_per_weight:.1f} bits"
    parts = [_Part(0, name, name), _Part(2, f"{weights} of weights", weights)]
    parts.append(_Part(3, f"{bits} a weight", bits))
    if facts.context:
        context = f"{facts.context:,}"
        parts.append(_Part(1, f"context {context} tokens", f"ctx {context}"))
    return parts


def _fitted(parts: list[_Part], width: int) -> str:
    """In words if they fit, else in short, else in short without the last in rank."""
    line = _BETWEEN.join(part.words for part in parts)
    while len(line) > width and parts:
        line = _BETWEEN.join(part.short for part in parts)
        if len(line) > width and len(parts) > 1:
            last = max(part.rank for part in parts)
            parts = [part for part in parts if part.rank != last]
        elif len(line) > width:
            break
    return clipped(line, width)


class StatusLine(Widget):
    """Shows what `show` was last told; never takes the focus."""

    DEFAULT_CSS = "StatusLine { height: 1; width: 1fr; color: $text-muted; }"

    status: reactive[Status] = reactive(Status())

    def show(self, event: Event) -> None:
        self.status = after(self.status, event)

    def render(self) -> Content:
        status, width = self.status, self.content_size.width
        if status.activity is not None:
            return Content(activity_text(status.activity, width))
        return Content(text(status.progress, status.facts, width))
