"""One reply: what it costs to read, its tokens as they come, and why it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mlx_mistral.cache import PrefixCache
from mlx_mistral.errors import ContextError, MlxMistralError
from mlx_mistral.generation import Sampling, generate_ids, room_in
from mlx_mistral.memory.governor import governor_of
from mlx_mistral.memory.limits import model_limits
from mlx_mistral.text.stem import stem_length
from mlx_mistral.text.thinking import ReplyStream

from .commands import Message, Reply
from .events import Event, Finished, Noted, Piece, Reading
from .figures import Figures
from .model import LiveModel
from .thinking import to_chat
from .watcher import Watcher


class Stopped(Exception):
    """Someone asked for the end of what is going on."""


class ReplyMaker:
    """Makes one reply.

    check: called within every layer of the prompt's chunks and after every token; raises
        Stopped to end the reply, which is then over without an error.
    prepare: called with the ids of a prompt before the model's cache is asked for what it holds
        of them.
    """

    def __init__(
        self,
        live: LiveModel,
        watcher: Watcher,
        command: Reply,
        *,
        tell: Callable[[Event], None],
        check: Callable[[], None],
        now: Callable[[], float] = time.perf_counter,
        prepare: Callable[[Sequence[int]], None] = lambda ids: None,
    ) -> None:
        self._live, self._watcher, self._command = live, watcher, command
        self._tell, self._check, self._prepare = tell, check, prepare
        self._said: list[int] = []
        self._figures = Figures(command.id, live.memory_limit_bytes, now)
        self._text = ReplyStream(live.tokenizer)

    def run(self) -> None:
        """Ends with Finished. Raises: MlxMistralError: the reply cannot be made, or goes wrong."""
        try:
            reason = self._begun() or self._generate()
        except Stopped:
            reason = "stopped"
        self._tell(
            Finished(
                id=self._command.id,
                reason=reason,
                progress=self._figures.progress(),
                token_ids=tuple(self._said),
            )
        )

    def _begun(self) -> str | None:
        """Tells what the reply begins with; the reason if that is already all of it."""
        for token in self._command.begun:
            text, is_over = self._text.add(token)
            self._figures.reply_tokens += 1
            self._tell(Piece(id=self._command.id, token=token, text=text))
            if is_over:
                return "stop"
            self._said.append(token)
        return None

    def _generate(self) -> str:
        """Returns why the reply is over. Raises: Stopped, MlxMistralError."""
        command, live = self._command, self._live
        ids = [*self._prompt(), *command.begun]
        cache = live.cache(command.settings.cache_bits)
        sampling = Sampling(
            temp=command.settings.temperature,
            top_p=command.settings.top_p,
            seed=command.settings.seed,
        )
        self._check()
        self._check_length(len(ids), cache)
        self._prepare(ids)
        reused = live.begin(ids)
        live.prefix.stem = self._stem(ids)
        n_most = len(ids) + command.settings.max_tokens
        try:
            with model_limits(live.model, n_most):
                return self._read_and_draw(ids, reused, sampling)
        finally:
            live.end()
            self._tell_experts()

    def _read_and_draw(self, ids: list[int], reused: int, sampling: Sampling) -> str:
        command, live = self._command, self._live
        cache, pace, total = live.prefix, live.pace, len(ids) - reused
        self._figures.begin(cache, len(ids), reused)

        def read(done: int, _: int) -> None:
            pace.read(done)
            cache.keep_place()
            self._figures.read(done)
            self._tell(Reading(id=command.id, done=done, total=total, reused=reused))
            self._pause()

        def before_layer() -> None:
            pace.before_layer()
            self._check()

        governor = governor_of(
            live.model,
            cache.layers,
            tell=lambda line: self._tell(Noted(line=line)),
            spare=cache.forget_places,
        )
        if governor is not None:
            governor.check(total)

        def chunk() -> int:
            wanted = cache.until_stem(pace.chunk())
            return wanted if governor is None else governor.chunk(wanted)

        steps = generate_ids(
            live.model,
            ids[reused:],
            cache=cache.layers,
            sampling=sampling,
            max_tokens=command.settings.max_tokens - len(command.begun),
            prefill_step_size=chunk,
            progress=read,
            interrupt=before_layer,
            watch=self._watcher,
            may_go_on=None if governor is None else governor.may_go_on,
        )
        self._watcher.listen(self._watcher.wanted.experts)
        try:
            for step in steps:
                cache.ids.append(step.token)
                text, is_over = self._text.add(step.token)
                if step.is_last and not is_over:
                    text += self._text.finish()
                self._figures.decoded()
                seen = self._watcher.read(step.seen) if step.seen else {}
                self._tell(Piece(id=command.id, token=step.token, text=text, **seen))
                if is_over:
                    return "stop"
                self._said.append(step.token)
                self._pause()
            return "length"
        finally:
            steps.close()
            self._watcher.listen(False)

    def _check_length(self, n_tokens: int, cache: PrefixCache) -> None:
        """Before the cache forgets anything. Raises: MlxMistralError, ContextError."""
        if not n_tokens:
            raise MlxMistralError(
                "the chat format makes no tokens of these messages; choose another model"
            )
        room = room_in(cache.layers, self._live.model.config)
        context = None if room is None else room + cache.layers[0].offset
        if context is not None and n_tokens >= context:
            raise ContextError(
                f"the conversation has {n_tokens} tokens, the context holds {context} and must "
                "leave room for an answer; shorten it or load the model with a larger context"
            )

    def _prompt(self) -> list[int]:
        """The conversation in tokens, replies in those that they were made of."""
        live, system = self._live, self._command.settings.system
        first = (Message(role="system", content=system),) if system else ()
        messages = [*first, *self._command.messages]

        def encode(some: Sequence[Message]) -> list[int]:
            return live.tokenizer.encode_chat(to_chat(some, live.tokenizer))

        return live.spoken(encode(messages), messages, encode)

    def _stem(self, ids: Sequence[int]) -> int:
        """Where a ring that wraps would forget how other conversations begin, too."""
        live, system = self._live, self._command.settings.system
        if not system or not live.prefix.is_longer_than_a_window(len(ids)):
            return 0
        first = Message(role="system", content=system)

        def encode(text: str) -> list[int]:
            chat = to_chat([first, Message(role="user", content=text)], live.tokenizer)
            return live.tokenizer.encode_chat(chat)

        return stem_length(ids, encode)

    def _pause(self) -> None:
        """Between two passes. Raises: Stopped."""
        if self._figures.is_due():
            self._tell_experts()
            self._tell(self._figures.progress())
        self._check()

    def _tell_experts(self) -> None:
        if (routed := self._watcher.routed(self._command.id)) is not None:
            self._tell(routed)
