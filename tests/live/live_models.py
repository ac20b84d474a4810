"""Tiny models behind the live interface, and a listener that keeps what it is told."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tiny import FAMILIES, LetterTokenizer, tiny_config, tiny_model

from mlx_mistral.live.commands import Command, Count, Load, Message, Reply, Settings, Watch
from mlx_mistral.live.engine import LiveEngine
from mlx_mistral.live.events import (
    Counted,
    Event,
    Failed,
    Finished,
    Loaded,
    LoadFailed,
    ModelFacts,
    Piece,
)
from mlx_mistral.live.model import LiveModel
from mlx_mistral.live.reply import ReplyMaker
from mlx_mistral.live.watcher import Watcher
from mlx_mistral.model import Model

KINDS = {"full": "mistral", "windowed": "mixtral-window", "mixed": "ministral"}
FACTS = ModelFacts(
    name="tiny", family="mistral", parameters=1, active_parameters=1, weight_bytes=1,
    bits_per_weight=32.0, n_layers=4, windows=(None,) * 4, n_experts=0, experts_per_token=0,
    context=None,
)  # fmt: skip
E = TypeVar("E")


class Letters(LetterTokenizer):
    """With what a live model asks of a tokenizer beside text."""

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        return [f"<{one}>" for one in token_ids]


class Thinking(Letters):
    """With control tokens around what is thought."""

    def control_id(self, name: str) -> int | None:
        return {"[THINK]": 5, "[/THINK]": 6}.get(name)


def tiny(kind: str) -> Model:
    return tiny_model(tiny_config(**FAMILIES[KINDS[kind]], vocab_size=266))


def live(model: Model, *, context: int | None = None) -> LiveModel:
    """As if just loaded: it shares nothing with what the model has read before."""
    vars(model).pop("prefixes", None)
    return LiveModel(model, Letters(), FACTS, context)  # type: ignore[arg-type]


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def ids_of(messages: Iterable[Message]) -> list[int]:
    return Letters().encode_chat([{"role": m.role, "content": m.content} for m in messages])


def make(
    target: LiveModel,
    command: Reply,
    *,
    watch: Watch | None = None,
    check: Callable[[], None] = lambda: None,
    now: Callable[[], float] = lambda: 0.0,
) -> list[Event]:
    """One reply on this thread; all that is told of it."""
    told: list[Event] = []
    watcher = Watcher(target.model, target.tokenizer)
    watcher.wanted = watch or Watch()
    ReplyMaker(target, watcher, command, tell=told.append, check=check, now=now).run()
    return told


def asked(*messages: Message, id: int = 1, max_tokens: int = 6, **fields: Any) -> Reply:
    settings = Settings(max_tokens=max_tokens, **fields.pop("settings", {}))
    return Reply(id=id, messages=messages, settings=settings, **fields)


def of(kind: type[E], events: Iterable[object]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def text_of(events: Iterable[object]) -> str:
    return "".join(piece.text for piece in of(Piece, events))


class Desk:
    """An engine and what it tells; `until` waits for an event, a minute at most."""

    def __init__(self, engine: LiveEngine | None = None) -> None:
        self.engine = engine or LiveEngine()
        self.told: queue.Queue[Event] = queue.Queue()
        self.on_event: Callable[[Event], None] = lambda event: None
        self.engine.start(self._hear)

    def until(self, found: Callable[[Event], bool]) -> list[Event]:
        events = [self.told.get(timeout=60)]
        while not found(events[-1]):
            events.append(self.told.get(timeout=60))
        return events

    def do(self, command: Command) -> list[Event]:
        """Everything told until the command has ended."""
        self.engine.submit(command)
        return self.until(lambda event: ends(command, event))

    def _hear(self, event: Event) -> None:
        self.told.put(event)
        self.on_event(event)


def ends(command: Command, event: Event) -> bool:
    if isinstance(command, Load):
        return isinstance(event, Loaded | LoadFailed)
    if isinstance(command, Reply | Count):
        return isinstance(event, Finished | Failed | Counted) and event.id == command.id
    return True
