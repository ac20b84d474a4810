"""Decoding several texts together: they join as there is room, and leave as they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import mlx.core as mx

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.generation.decode import CLEAR_EVERY, nan_error
from mlx_mistral.generation.prefill import Progress, StepSize, all_or_nothing
from mlx_mistral.generation.prompt import check_prompt, check_room
from mlx_mistral.generation.sampling import Sampling
from mlx_mistral.generation.step import NAN
from mlx_mistral.memory.at_once import BatchRoom
from mlx_mistral.memory.batch import Extent
from mlx_mistral.memory.governor import Tell, log
from mlx_mistral.model import Model
from mlx_mistral.token_ids import TokenIds

from .prompts import Reading, similar
from .texts import Running, Text, gather


@dataclass(frozen=True, slots=True)
class NewToken:
    """The next token of one text."""

    id: int
    token: int
    is_last: bool
    """Whether the text ends here, at its max_tokens or at the end of the context."""


class BatchGenerator:
    """Texts decoded together, each token's weights read once for all of them.

    Each gets the tokens that it would get alone. Those that fit are read and join; the others
    wait. Prompts are read in chunks, one between two tokens of the texts that already run; where
    none runs, all that have room are read first. Texts of the same prompt share its reading.

        batch = BatchGenerator(model, max_batch=8)
        batch.insert(ids, max_tokens=100)
        while batch:
            for new in batch.next():
                if new.token in tokenizer.eos_ids:
                    batch.remove(new.id)

    max_batch: how many run at once.
    context, kv_bits: of each text, as `Model.make_cache` takes them.
    prefill_step_size: tokens of a chunk, those of all prompts in it together.
    progress: called with the prompt tokens read so far and their total, of all texts.
    tell: told in a line where the model's memory budget has fewer run at once, their prompts
        read in smaller chunks, or a text end before its max_tokens.
    After an error in `next` the texts are lost; what was refused by `insert` disturbs nothing.
    Raises: MlxMistralError: max_batch is below 1.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int = 32,
        context: int | None = None,
        kv_bits: int | None = None,
        prefill_step_size: StepSize = 512,
        progress: Progress | None = None,
        tell: Tell = log,
    ) -> None:
        if max_batch < 1:
            raise MlxMistralError(f"a batch of {max_batch} texts runs none; ask for at least 1")
        self._model, self._max_batch, self._kv_bits = model, max_batch, kv_bits
        self._step_size, self._progress = prefill_step_size, progress
        # Of one text: in a batch columns are shared, so the limit holds for each prompt alone.
        self._empty = model.make_cache(context=context, kv_bits=kv_bits)
        self._room = BatchRoom(model, kv_bits=kv_bits, tell=tell)
        self._texts: dict[int, Text] = {}
        self._waiting: deque[Text] = deque()
        self._reading: deque[Reading] = deque()
        self._read: list[Running] = []
        self._shared: dict[tuple[int, ...], Reading] = {}
        """Prompts that waiting texts have too."""
        self._running: Running | None = None
        self._n_inserted = self._n_steps = 0
        self._n_read = self._n_to_read = 0

    def insert(
        self, prompt: TokenIds, *, max_tokens: int = 256, sampling: Sampling | None = None
    ) -> int:
        """Adds a text to those that wait; returns its id, counted from 0.

        Raises: ContextError: the prompt does not fit. MemoryBudgetError: it does not fit the
        model's budget. MlxMistralError: it holds an unknown id.
        """
        config = self._model.config
        ids = check_prompt(prompt, config)
        room = check_room(len(ids), self._empty, config)
        left = max_tokens if room is None else min(max_tokens, room)
        text = Text(
            id=self._n_inserted,
            prompt=tuple(ids),
            sampling=sampling or Sampling(),
            left=self._room.tokens(len(ids), left),
        )
        self._n_inserted += 1
        if text.left > 0:
            self._texts[text.id] = text
            self._waiting.append(text)
            self._n_to_read += len(text.prompt)
        return text.id

    def next(self) -> list[NewToken]:
        """One more token of each text that runs; none only where no text is left.

        Raises: CheckpointError: a text's logits are NaN.
        """
        self._read_prompts()
        now = [*([self._running] if self._running else []), *self._read]
        self._read = []
        drawn = [(batch.texts, batch.tokens) for batch in now]
        self._running = gather(
            [(one, [i for i, t in enumerate(one.texts) if t.left > 1]) for one in now]
        )
        following = self._running
        if following:
            with all_or_nothing(following.cache, 1):
                _, following.tokens = following.step(following.tokens)
            if following.step.may_overlap:
                mx.async_eval(following.tokens)
        told = [one for texts, tokens in drawn for one in self._tell(texts, tokens)]
        if following and not following.step.may_overlap:
            mx.async_eval(following.tokens)
        self._n_steps += 1
        if self._n_steps % CLEAR_EVERY == 0:
            mx.clear_cache()
        if not self._texts:
            self._room.close()
        return told

    def remove(self, text_id: int) -> None:
        """Ends a text; nothing happens to one that has ended.

        Raises: MlxMistralError: there was none of this id.
        """
        if not 0 <= text_id < self._n_inserted:
            raise MlxMistralError(f"no text has id {text_id}; give one that insert returned")
        text = self._texts.pop(text_id, None)
        if text is None:
            return
        text.left = 0
        if text in self._waiting:
            self._waiting.remove(text)
            self._n_to_read -= len(text.prompt)
        if self._running and not any(text.left for text in self._running.texts):
            self._running = None
        if not self._texts:
            self._room.close()

    def __len__(self) -> int:
        """Texts that have not ended."""
        return len(self._texts)

    @property
    def nbytes(self) -> int:
        """Bytes held by caches."""
        held = [batch.cache for batch in (self._running, *self._read) if batch]
        held += [reading.cache for reading in self._reading]
        held += [reading.cache for reading in self._shared.values()]
        return sum(one.nbytes for cache in held for one in cache)

    def _read_prompts(self) -> None:
        """Lets waiting texts in as there is room, and reads a chunk; all, where none runs."""
        self._admit()
        while self._reading:
            reading = self._reading[0]
            if any(text.left for text in reading.texts):
                wanted = self._step_size
                size = wanted if isinstance(wanted, int) else wanted()
                reading.read_chunk(self._room.chunk(self._inside(), size))
            if reading.is_done:
                self._keep_for_waiting(reading)
                self._reading.popleft()
                self._add(reading.begin([one for one in reading.texts if one.left]))
                self._n_read += reading.n_read
            self._tell_progress()
            if self._running:
                return

    def _admit(self) -> None:
        running = self._running.texts if self._running else []
        busy = sum(text.left > 1 for text in running)
        busy += sum(text.left > 0 for reading in self._reading for text in reading.texts)
        free = max(0, self._max_batch - busy)
        first = [text.extent for text in islice(self._waiting, free)]
        if not first:
            return
        if not busy and not self._room.holds([*self._inside(), first[0]]):
            self._shared.clear()
        n_admitted = self._room.admits(self._inside(), first)
        admitted = [self._waiting.popleft() for _ in range(n_admitted)]
        if not admitted:
            return
        for prompt, reading in list(self._shared.items()):
            if texts := [text for text in admitted if text.prompt == prompt]:
                self._add(reading.begin(texts))
                self._n_read += sum(len(text.prompt) for text in texts)
        fresh = [text for text in admitted if text.prompt not in self._shared]
        for texts in similar(fresh):
            self._reading.append(Reading(self._model, texts, self._kv_bits))
        self._forget_shared()
        self._tell_progress()

    def _keep_for_waiting(self, reading: Reading) -> None:
        waiting = {text.prompt for text in self._waiting}
        for prompt in waiting.intersection(reading.prompts):
            if self._room.holds([*self._inside(), Extent(len(prompt), len(prompt))]):
                self._shared[prompt] = reading.kept(prompt)

    def _forget_shared(self) -> None:
        waiting = {text.prompt for text in self._waiting}
        self._shared = {prompt: one for prompt, one in self._shared.items() if prompt in waiting}

    def _inside(self) -> list[Extent]:
        """What is held: texts until their rows are gone, and prompts kept for others."""
        batches = [batch for batch in (self._running, *self._read, *self._reading) if batch]
        held = [batch for batch in batches if any(text.left for text in batch.texts)]
        texts = [text.extent for batch in held for text in batch.texts]
        return texts + [Extent(len(prompt), len(prompt)) for prompt in self._shared]

    def _add(self, batch: Running | None) -> None:
        if batch is not None:
            self._read.append(batch)

    def _tell(self, texts: Sequence[Text], tokens: mx.array) -> Iterator[NewToken]:
        """Waits for the tokens of the texts that have not been removed."""
        drawn: Any = tokens.tolist()
        for text, token in zip(texts, drawn, strict=True):
            if not text.left:
                continue
            if token == NAN:
                raise nan_error(text.n_told + 1)
            text.left, text.n_told = text.left - 1, text.n_told + 1
            if not text.left:
                del self._texts[text.id]
            yield NewToken(text.id, token, is_last=not text.left)

    def _tell_progress(self) -> None:
        if self._progress:
            done = self._n_read + sum(reading.n_read for reading in self._reading)
            self._progress(done, self._n_to_read)
