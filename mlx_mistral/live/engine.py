"""A model at work on one thread: it alone loads, computes and frees."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.prompt_cache import PromptCacheStore

from .commands import Command, Count, Load, Reply, Watch
from .events import Counted, Event, Failed, Finished, Loaded, LoadFailed, Noted
from .figures import Figures
from .inbox import Inbox
from .kept import WORTH_SECONDS, KeptReading
from .model import LiveModel, load_live
from .protocol import Listener
from .reply import ReplyMaker, Stopped
from .watcher import Watcher

CLOSING = "the program is closing; start it again"
STOPPED = "stopped; choose a model"
CLOSE_SECONDS = 10.0
"""Far more than a layer of a prompt or of a model's file takes."""
IDLE_SECONDS = 3.0
"""Less than it takes to leave a conversation and write in another."""
LEAVING_SECONDS = 5.0
CLOSING_SECONDS = 2.0
ASKED_SECONDS = 0.5
"""After so many no other file of a cache is begun: when a model makes room for another, when the
program ends, when a reply waits."""
NO_MODEL = "no model is loaded; load one first"


class LiveEngine:
    """Fulfils `protocol.Engine` with a real model.

    MLX binds what is not computed yet to its thread, so all of MLX stays on the one that
    `start` makes. Whatever goes wrong there becomes an event; the thread goes on.

    caches: where conversations that are left are kept as they were read; None: nowhere.
    idle_seconds: after so many without a command, what was read is written there.
    worth_seconds: what would be read again in less is not.
    dtype: of activations; None: the device's own.
    now: seconds from any start; for tests.
    """

    def __init__(
        self,
        *,
        caches: PromptCacheStore | None = None,
        idle_seconds: float = IDLE_SECONDS,
        worth_seconds: float = WORTH_SECONDS,
        dtype: str | None = None,
        memory: int | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._now = now
        self._dtype, self._memory = dtype, memory
        self._idle_seconds = idle_seconds
        self._kept = None
        if caches is not None:
            self._kept = KeptReading(caches, self._tell, worth_seconds=worth_seconds)
        self._has_read = False
        """Whether something may have to be written."""
        self._inbox = Inbox()
        self._watch = Watch()
        self._thread: threading.Thread | None = None
        self._listener: Listener = lambda event: None
        self._live: LiveModel | None = None
        self._watcher: Watcher | None = None

    def start(self, listener: Listener) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def submit(self, command: Command) -> None:
        """A Watch holds at once, also for the reply at work. After `close` nothing is taken."""
        if isinstance(command, Watch):
            self._watch = command
            if self._watcher is not None:
                self._watcher.wanted = command
            return
        self._inbox.put(command)

    def stop(self, id: int | None = None) -> None:
        self._inbox.stop(id)

    def stop_loading(self) -> None:
        self._inbox.stop_loading()

    def close(self) -> None:
        """Ends a download too, keeping what is finished; a Hub that is silent is left behind."""
        self._inbox.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        while (command := self._next()) is not None:
            self._do(command)
        self._keep(lambda: True, CLOSING_SECONDS)
        self._free()
        # What MLX keeps for a thread may not outlive the interpreter, or the process aborts.
        mx.clear_streams()

    def _next(self) -> Command | None:
        if self._has_read and not self._inbox.wait(self._idle_seconds):
            self._keep(lambda: self._inbox.is_empty, LEAVING_SECONDS)
        return self._inbox.take()

    def _keep(self, go_on: Callable[[], bool], seconds: float) -> None:
        """Writes what was read since the last time, as far as it is worth that."""
        if self._kept is None or self._live is None or not self._has_read:
            return
        self._has_read = False
        try:
            self._kept.keep(self._live, go_on=go_on, seconds=seconds)
        except Exception as error:
            self._tell(Noted(line=f"what was read is not kept on disk: {in_one_line(error)}"))

    def _prepare(self, ids: Sequence[int]) -> None:
        """Puts what a prompt would cost on disk, and takes what it begins with from there."""
        if self._kept is None or self._live is None:
            return
        if self._kept.would_lose(self._live, ids):
            self._keep(lambda: not self._inbox.is_stopped, ASKED_SECONDS)
        self._check_reply()
        self._kept.restore(self._live, ids, self._check_reply)
        self._has_read = True

    def _do(self, command: Command) -> None:
        """Rust libraries panic outside Exception; no thread above could catch it."""
        try:
            if isinstance(command, Load):
                self._load(command)
            elif isinstance(command, Reply):
                self._reply(command)
            elif isinstance(command, Count):
                self._count(command)
            return
        except BaseException as error:
            closing = isinstance(error, Stopped) and self._inbox.closed
            stopped = STOPPED if isinstance(error, Stopped) else in_one_line(error)
            line = CLOSING if closing else stopped
        # By now the error is gone, and with it what its traceback kept alive.
        self._fail(command, line)

    def _fail(self, command: Command, line: str) -> None:
        if isinstance(command, Load):
            if self._live is None:
                self._free()
            self._tell(LoadFailed(model=command.model, error=line))
            if self._live is not None and not self._inbox.closed:
                self._tell(Loaded(facts=self._live.facts, seconds=0.0))
        elif isinstance(command, Reply | Count):
            self._tell(Failed(id=command.id, error=line))

    def _load(self, command: Load) -> None:
        start = self._now()
        live = load_live(
            command,
            self._tell,
            self._check_loading,
            make_room=self._make_room,
            dtype=self._dtype,
            memory=self._memory,
        )
        self._live = live
        self._watcher = Watcher(live.model, live.tokenizer)
        self._watcher.wanted = self._watch
        self._tell(Loaded(facts=live.facts, seconds=self._now() - start))

    def _make_room(self) -> None:
        """The model that is there goes; what it has read is kept."""
        self._keep(lambda: not self._inbox.is_stopped, LEAVING_SECONDS)
        self._free()

    def _free(self) -> None:
        self._live = self._watcher = None
        gc.collect()
        mx.clear_cache()

    def _reply(self, command: Reply) -> None:
        if self._inbox.is_stopped:
            self._tell_stopped(command)
            return
        if self._live is None or self._watcher is None:
            raise MlxMistralError(NO_MODEL)
        maker = ReplyMaker(
            self._live,
            self._watcher,
            command,
            tell=self._tell,
            check=self._check_reply,
            now=self._now,
            prepare=self._prepare,
        )
        try:
            maker.run()
        except MlxMistralError:
            raise
        except BaseException:
            # Nobody knows what an unforeseen error left in the cache.
            self._live.forget()
            raise

    def _count(self, command: Count) -> None:
        if self._live is None:
            raise MlxMistralError(NO_MODEL)
        tokens = len(self._live.tokenizer.encode(command.text))
        self._tell(Counted(id=command.id, tokens=tokens))

    def _check_loading(self) -> None:
        self._do_pressing()
        if self._inbox.closed or self._inbox.is_stopped:
            raise Stopped

    def _check_reply(self) -> None:
        self._do_pressing()
        if self._inbox.is_stopped:
            raise Stopped

    def _do_pressing(self) -> None:
        """What need not wait for the command at work."""
        if not self._inbox.pressing:
            return
        for command in self._inbox.take_pressing():
            if isinstance(command, Reply):
                self._tell_stopped(command)
            elif isinstance(command, Load):
                self._tell(LoadFailed(model=command.model, error=STOPPED))
            else:
                self._do(command)

    def _tell_stopped(self, command: Reply) -> None:
        limit = self._live.memory_limit_bytes if self._live else 0
        progress = Figures(command.id, limit, self._now).progress()
        self._tell(Finished(id=command.id, reason="stopped", progress=progress))

    def _tell(self, event: Event) -> None:
        # A screen that is gone must not take the thread with it.
        with contextlib.suppress(Exception):
            self._listener(event)


def in_one_line(error: BaseException) -> str:
    """What an error says, printable and without line breaks; an unforeseen one by its kind."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    text = " ".join(text.split())
    if isinstance(error, MlxMistralError):
        return text
    if isinstance(error, OSError):
        return f"{text}; check the file and the disk"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
