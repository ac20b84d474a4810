"""Reading the prompts of several texts together, a chunk at a time."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import mlx.core as mx

from mlx_mistral.cache.gather import gather_rows
from mlx_mistral.generation.prefill import all_or_nothing
from mlx_mistral.generation.sampling import Sampler
from mlx_mistral.generation.step import draw
from mlx_mistral.model import Model

from .sampler import BatchSampler
from .texts import Running, Text

PADDING_SHARE = 4
"""Prompts are read together where the shortest is at least 3 / 4 as long as the longest."""


class Reading:
    """Prompts of similar lengths on their way into one set of caches.

    Texts of the same prompt share its row. Shorter prompts are padded on the left.
    """

    def __init__(self, model: Model, texts: Sequence[Text], kv_bits: int | None) -> None:
        self.texts = list(texts)
        self.prompts = list(dict.fromkeys(text.prompt for text in texts))
        self._model = model
        longest = max(map(len, self.prompts))
        self._padding = [longest - len(prompt) for prompt in self.prompts]
        rows = zip(self._padding, self.prompts, strict=True)
        self._tokens = mx.array([[0] * padding + list(prompt) for padding, prompt in rows])
        self.cache = model.make_cache(kv_bits=kv_bits, left_padding=self._padding)
        self._logits = mx.zeros(())
        self._is_kept = False

    @property
    def is_done(self) -> bool:
        """Whether all is read, or no text is left to read for."""
        return self.cache[0].offset == self._tokens.shape[1] or not any(t.left for t in self.texts)

    @property
    def n_read(self) -> int:
        """Tokens read so far, of all texts."""
        column = dict(zip(self.prompts, self._padding, strict=True))
        done = self.cache[0].offset
        return sum(max(0, done - column[text.prompt]) for text in self.texts)

    def read_chunk(self, size: int) -> None:
        """Reads so many tokens, those of all rows together, or what is left."""
        n_rows, total = self._tokens.shape
        start = self.cache[0].offset
        chunk = self._tokens[:, start : start + max(1, size // n_rows)]
        end = start + chunk.shape[1]
        with all_or_nothing(self.cache, chunk.shape[1]):
            hidden = self._model.model(chunk, self.cache, last_only=end == total)
            if end == total:
                self._logits = self._model.head(hidden)[:, 0]
            mx.eval([one.state for one in self.cache], self._logits)
        mx.clear_cache()

    def begin(self, texts: Sequence[Text]) -> Running | None:
        """Draws the first token of texts of these prompts; None: there are no such texts."""
        if not texts:
            return None
        rows = [self.prompts.index(text.prompt) for text in texts]
        n_words = self._model.config.vocab_size
        sampler = BatchSampler([(Sampler(t.sampling, n_words, [t.prompt]), 0) for t in texts])
        return Running(
            model=self._model,
            texts=list(texts),
            rows=rows,
            cache=list(self.cache),
            sampler=sampler,
            tokens=draw(sampler, self._logits[mx.array(rows)]),
            is_lent=self._is_kept,
        )

    def kept(self, prompt: tuple[int, ...]) -> Reading:
        """One prompt's reading, to begin further texts from later."""
        row = self.prompts.index(prompt)
        one = copy(self)
        one.prompts, one._logits = [prompt], self._logits[row : row + 1]
        if len(self.prompts) > 1:
            one.cache = [gather_rows([(layer, [row])]) for layer in self.cache]
            mx.eval([layer.state for layer in one.cache])
        self._is_kept = one._is_kept = True
        return one


def similar(texts: Sequence[Text]) -> list[list[Text]]:
    """Groups whose prompts need little padding, short ones first."""
    groups: list[list[Text]] = []
    for text in sorted(texts, key=lambda text: len(text.prompt)):
        longest = len(text.prompt)
        if groups and PADDING_SHARE * (longest - len(groups[-1][0].prompt)) <= longest:
            groups[-1].append(text)
        else:
            groups.append([text])
    return groups
