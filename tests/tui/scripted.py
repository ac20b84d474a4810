"""An engine that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Lock, Thread

from mlx_mistral.live.commands import Command, Count, Load, Message, Reply, Watch
from mlx_mistral.live.events import (
    Event,
    Finished,
    Loaded,
    LoadFailed,
    ModelFacts,
    Piece,
    Progress,
    Reading,
)
from mlx_mistral.live.protocol import Listener

Script = Callable[[Command], Iterable[Event]]


class ScriptedEngine:
    """Fulfils `mlx_mistral.live.protocol.Engine`.

    `script` makes the events of a command, told at once on the thread that submits it; without
    one nothing is told until `tell` or `tell_from_thread` is called.
    """

    def __init__(self, script: Script | None = None, *, ends_when_stopped: bool = True) -> None:
        self.commands: list[Command] = []
        self.stops: list[int | None] = []
        self.closed = self.stopped_loads = 0
        self.script = script
        self._ends_when_stopped = ends_when_stopped
        self._listener: Listener | None = None
        self._running: list[int] = []
        self._lock = Lock()

    def start(self, listener: Listener) -> None:
        assert self._listener is None, "an engine is started once"
        self._listener = listener

    def submit(self, command: Command) -> None:
        self.commands.append(command)
        if isinstance(command, Reply):
            with self._lock:
                self._running.append(command.id)
        if self.script is not None:
            self.tell(*self.script(command))

    def stop(self, id: int | None = None) -> None:
        self.stops.append(id)
        with self._lock:
            ended = [running for running in self._running if id in (None, running)]
        if self._ends_when_stopped:
            self.tell(*(finished(each, reason="stopped") for each in ended))

    def stop_loading(self) -> None:
        self.stopped_loads += 1
        model = self.loads[-1].model
        if self._ends_when_stopped:
            self.tell(LoadFailed(model=model, error="stopped; choose a model"))

    def close(self) -> None:
        self.closed += 1

    def tell(self, *events: Event) -> None:
        """Tells events on the calling thread."""
        assert self._listener is not None, "the engine was not started"
        for event in events:
            if isinstance(event, Finished):
                with self._lock:
                    self._running = [each for each in self._running if each != event.id]
            self._listener(event)

    def tell_from_thread(self, events: Iterable[Event]) -> Thread:
        """Tells events as a model would, from a thread of their own, which has been started."""
        thread = Thread(target=lambda: self.tell(*events), daemon=True)
        thread.start()
        return thread

    @property
    def replies(self) -> list[Reply]:
        return [command for command in self.commands if isinstance(command, Reply)]

    @property
    def loads(self) -> list[Load]:
        return [command for command in self.commands if isinstance(command, Load)]

    @property
    def counts(self) -> list[Count]:
        return [command for command in self.commands if isinstance(command, Count)]

    @property
    def watches(self) -> list[Watch]:
        return [command for command in self.commands if isinstance(command, Watch)]


def facts(name: str = "demo", **changed: object) -> ModelFacts:
    """A small model; any field may be given."""
    values: dict[str, object] = {
        "name": name,
        "family": "mistral",
        "parameters": 1_000_000,
        "active_parameters": 1_000_000,
        "weight_bytes": 2_000_000,
        "bits_per_weight": 16.0,
        "n_layers": 4,
        "windows": (64, 64, 64, 64),
        "n_experts": 0,
        "experts_per_token": 0,
        "context": 512,
    } | changed
    return ModelFacts(**values)  # type: ignore[arg-type]


def loaded(name: str = "demo", **changed: object) -> Loaded:
    return Loaded(facts=facts(name, **changed), seconds=0.5)


def progress(id: int, **changed: object) -> Progress:
    """Figures of a reply; any field may be given."""
    values: dict[str, object] = {
        "id": id,
        "prompt_tokens": 30,
        "reused_tokens": 7,
        "reply_tokens": 5,
        "prefill_tps": 900.0,
        "decode_tps": 120.0,
        "first_token_seconds": 0.05,
        "cache_tokens": 35,
        "cache_bytes": 70_000,
        "memory_bytes": 3_000_000,
        "memory_limit_bytes": 16_000_000_000,
    } | changed
    return Progress(**values)  # type: ignore[arg-type]


def finished(id: int, reason: str = "stop", **changed: object) -> Finished:
    return Finished(id=id, reason=reason, progress=progress(id, **changed))


def pieces(id: int, texts: Iterable[str]) -> list[Event]:
    return [Piece(id=id, token=index, text=text) for index, text in enumerate(texts)]


def told(id: int, *texts: str, reason: str = "stop", **changed: object) -> list[Event]:
    """All events of a reply, from reading the prompt to its end."""
    return [
        Reading(id=id, done=23, total=23, reused=7),
        *pieces(id, texts),
        finished(id, reason, **changed),
    ]


def says(answer: Callable[[Sequence[Message]], Sequence[str]]) -> Script:
    """A script that loads any model and replies what `answer` makes of the messages."""

    def script(command: Command) -> Iterable[Event]:
        if isinstance(command, Load):
            return [loaded(command.model)]
        if isinstance(command, Reply):
            return told(command.id, *answer(command.messages))
        return []

    return script


def echo(messages: Sequence[Message]) -> Sequence[str]:
    """You said hello: "hello" in two pieces after "you said "."""
    last = messages[-1].content
    half = len(last) // 2
    return ["you said ", last[:half], last[half:]]
