"""Decoding with drafts: several guessed tokens are checked in one pass.

Each position of a checking pass draws its token exactly as plain decoding would, with the same
key of the random stream, and a drafted token stands if it is the one that was drawn. So the
text, at any temperature, is the one that plain decoding makes with the same seed, up to the
rounding of sums over several tokens at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.cache.prefix import common_prefix
from mlx_mistral.generation.decode import CLEAR_EVERY, MayGoOn, Step, nan_error
from mlx_mistral.generation.prefill import all_or_nothing
from mlx_mistral.generation.sampling import Sampler
from mlx_mistral.generation.step import NAN, NextToken, draw
from mlx_mistral.model import Model

from .check import CheckingPass
from .length import LENGTHS, DraftLength


class Drafter(Protocol):
    """Guesses what comes next. What it guesses changes the speed, never the text."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Tells what the text goes on with."""

    def match(self) -> int | None:
        """What kind of draft there is, by how likely it is to hold; None: there is none."""

    def guess(self) -> int | None:
        """What a draft would begin with, where that costs no time to tell; called after `match`."""

    def propose(self, n: int, sampler: Sampler) -> list[int]:
        """At most n tokens that may come next; called after `match`.

        sampler: a copy that draws as the coming tokens will be drawn.
        """


@dataclass(slots=True)
class Counts:
    """What drafting did for one text."""

    passes: int = 0
    """Forward passes of the model after the prompt's."""
    tokens: int = 0
    """Tokens made, the first included, which is the prompt's."""
    drafted: int = 0
    accepted: int = 0

    @property
    def tokens_per_pass(self) -> float:
        """Of the tokens after the first."""
        return (self.tokens - 1) / self.passes if self.passes else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """A token under way. Shapes: token (1,), logits (1, vocab)."""

    token: mx.array
    logits: mx.array


class DraftingDecoder:
    """Decodes one text with a drafter, in plain passes where drafts do not pay.

    drafter: knows the prompt already. now: a clock, in seconds.
    """

    def __init__(
        self,
        model: Model,
        cache: Sequence[KVCache],
        sampler: Sampler,
        drafter: Drafter,
        *,
        lengths: DraftLength | None = None,
        counts: Counts | None = None,
        may_go_on: MayGoOn | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.counts = Counts() if counts is None else counts
        self._model, self._cache = model, cache
        self._sampler, self._drafter = sampler, drafter
        self._next = NextToken(model, cache, sampler)
        self._checking = CheckingPass(model, cache, sampler)
        self._lengths = lengths or DraftLength()
        self._may_go_on = may_go_on or (lambda: True)
        self._now = now
        self._read_at = 0.0
        self._left = 0

    def decode(self, logits: mx.array, budget: int) -> Iterator[Step]:
        """Draws `budget` tokens, the first from the prompt's logits.

        Under way the caches may be ahead of the tokens yielded; when this ends or is closed,
        they hold all of them, or all but the last.
        Shapes: logits (1, vocab). Raises: CheckpointError: the logits are NaN.
        """
        start, self._left = self._cache[0].offset, budget
        try:
            yield from self._decode(_Pending(draw(self._sampler, logits), logits))
        finally:
            surplus = max(0, self._cache[0].offset - start - self.counts.tokens)
            for one in self._cache:
                one.trim(surplus)
                one.allow_trim(0)

    def _decode(self, pending: _Pending | None) -> Iterator[Step]:
        self._read_at = self._now()
        while pending is not None:
            match, length = self._wanted()
            guess = None if match is None else self._drafter.guess()
            following = None
            # Before a draft nothing is submitted: the token decides whether it holds.
            if not length and self._left > 1:
                following = self._follow(pending.token)
                if self._next.may_overlap:
                    mx.async_eval(following.token)
            value = self._read(pending)
            if following is not None:
                mx.async_eval(following.token)
            elapsed = self._elapsed()
            if self.counts.tokens:
                self._lengths.decoded(elapsed, is_followed=length == 0)
            if match is not None and guess is not None:
                self._lengths.watched(match, was_right=guess == value)
            yield self._emit(value, pending.logits)
            pending = (yield from self._draft_after(value)) if length else following
            if not self._left:
                return

    def _draft_after(self, value: int) -> Generator[Step, None, _Pending | None]:
        """Checks drafts for as long as they pay. Returns the token that is then under way."""
        while self._left:
            match, length = self._wanted()
            draft = self._drafter.propose(length, copy(self._sampler)) if length else []
            if not draft:
                for one in self._cache:
                    one.allow_trim(0)  # plain passes are those of a text without drafts
                following = self._follow(mx.array([value]))
                mx.async_eval(following.token)
                return following
            assert match is not None
            rows, drawn, is_usual = self._check([value, *draft])
            accepted = common_prefix(drawn, draft)
            for one in self._cache:
                one.trim(len(draft) - accepted)
            self.counts.drafted += len(draft)
            self.counts.accepted += accepted
            seconds = self._elapsed()
            self._lengths.checked(match, len(draft), accepted, seconds, is_usual=is_usual)
            for i in range(accepted + 1):
                yield self._emit(drawn[i], rows[i : i + 1], from_draft=i < accepted)
                if not self._left:
                    return None
            value = drawn[accepted]
        return None

    def _wanted(self) -> tuple[int | None, int]:
        """What kind of draft there is after the known text, and how many tokens it shall have."""
        match = self._drafter.match() if self._left > 1 else None
        if match is None:
            return None, 0
        return match, min(self._lengths.choose(match), self._left - 1)

    def _follow(self, token: mx.array) -> _Pending:
        """Builds a plain pass. Shapes: token (1,)."""
        self._count_pass()
        with all_or_nothing(self._cache, 1):
            logits, drawn = self._next(token)
        return _Pending(drawn, logits)

    def _check(self, fed: list[int]) -> tuple[mx.array, list[int], bool]:
        """A pass over a token and its draft: logits, tokens drawn, whether its time is usual.

        The sampler is left as it stands after the first token that differs from the draft.
        """
        self._count_pass()
        before = self._cache[0].offset
        for one in self._cache:
            one.allow_trim(LENGTHS[-1])  # from the first draft on: a text without any pays nothing
        try:
            logits, drawn_array, states, is_usual = self._checking(fed)
        except BaseException:
            for one in self._cache:
                one.trim(one.offset - before)
            raise
        drawn: Any = drawn_array.tolist()
        if NAN in drawn:
            raise nan_error(self.counts.tokens + 1)
        self._sampler.state = states[common_prefix(drawn, fed[1:])]
        return logits, drawn, is_usual

    def _read(self, pending: _Pending) -> int:
        """Waits for a token."""
        value: Any = pending.token.item()
        if value == NAN:
            raise nan_error(self.counts.tokens + 1)
        return int(value)

    def _emit(self, value: int, logits: mx.array, *, from_draft: bool = False) -> Step:
        """Shapes: logits (1, vocab)."""
        self._left -= 1
        self.counts.tokens += 1
        self._drafter.extend([value])
        if self._left and not self._may_go_on():
            self._left = 0
        return Step(value, logits, not self._left, from_draft=from_draft)

    def _count_pass(self) -> None:
        self.counts.passes += 1
        if self.counts.passes % CLEAR_EVERY == 0:
            mx.clear_cache()

    def _elapsed(self) -> float:
        """Seconds since this was last asked."""
        before, self._read_at = self._read_at, self._now()
        return self._read_at - before
