"""A model on its thread: loaded with news of how far, described in figures, with its cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlx_mistral.cache import KVCache, PrefixCache
from mlx_mistral.checkpoint import resolve
from mlx_mistral.checkpoint.dtype import resolve_dtype
from mlx_mistral.checkpoint.load import fill, hollow_model, parts
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.errors import TokenizerError
from mlx_mistral.loading import check_room, held_in_part
from mlx_mistral.memory.machine import machine_budget
from mlx_mistral.memory.streamed import EXPERTS
from mlx_mistral.memory.weights import weights_in_memory
from mlx_mistral.model import Model, fuse
from mlx_mistral.text import load_tokenizer
from mlx_mistral.text.spoken import Spoken
from mlx_mistral.tuning import prefill_tokens

from .commands import Load
from .events import Loading, ModelFacts, Noted
from .left import LeftTexts
from .pace import Pace

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

MAX_PLACES = 16
"""Moments of a conversation to go back to past a wrap."""
PLACES_SHARE = 32
"""One part in so many of the machine's memory may go to them."""
LEFT_SHARE = 8
"""The same for conversations that were left."""


class LiveModel:
    """A loaded model and what it has read."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, facts: ModelFacts, context: int | None
    ) -> None:
        """Raises: CacheError: there is no cache of such a context."""
        self.model, self.tokenizer, self.facts = model, tokenizer, facts
        self.memory_limit_bytes = model.budget_bytes or _memory_limit()
        self.context = context
        self.cache_bits: int | None = None
        self.prefix = self._new_cache()
        """Of the conversation."""
        self.shared = model.prefixes
        self._left = LeftTexts(self.shared, self.memory_limit_bytes // LEFT_SHARE)
        self.pace = Pace(time.perf_counter, prefill_tokens(model.config, model.dtype))
        self.spoken = Spoken(tokenizer)

    def cache(self, bits: int | None) -> PrefixCache:
        """The cache of the conversation; a new one where keys shall have other bits.

        Raises: CacheError: there is none of so many bits.
        """
        if bits != self.cache_bits:
            before, self.cache_bits = self.cache_bits, bits
            try:
                self.prefix = self._new_cache()
            except BaseException:
                self.cache_bits = before
                raise
            self._left.clear()
        return self.prefix

    def choose(self, ids: Sequence[int]) -> int:
        """Makes `prefix` the text that a prompt goes on from; the one it was stays, if it can.

        Returns how many tokens need not be read.
        """
        self.prefix = self._left.choose(self.prefix, ids, self._new_cache)
        return self.shared.reusable(self.prefix, ids)

    def begin(self, ids: Sequence[int]) -> int:
        """Makes `prefix` hold a beginning of a prompt. Returns how many tokens that is."""
        self.choose(ids)
        budget_bytes = self.model.budget_bytes
        return self.shared.begin(self.prefix, ids, budget_bytes=budget_bytes)

    def end(self) -> None:
        """A prompt and its reply are over."""
        self.prefix.settle()
        self.prefix.keep_place()
        self.shared.end(self.prefix)

    def adopt(self, layers: list[KVCache], ids: list[int]) -> PrefixCache:
        """Takes caches that hold these ids in place of its own."""
        self.prefix = self._new_cache(layers)
        self.prefix.ids = ids
        self.prefix.keep_place()
        return self.prefix

    def new_layers(self) -> list[KVCache]:
        return self.model.make_cache(context=self.context, kv_bits=self.cache_bits)

    def forget(self) -> None:
        """Frees what was read; the next prompt is read from its start."""
        self.prefix = self._new_cache()

    def _new_cache(self, layers: list[KVCache] | None = None) -> PrefixCache:
        return PrefixCache(
            layers or self.new_layers(),
            max_places=MAX_PLACES,
            max_place_bytes=self.memory_limit_bytes // PLACES_SHARE,
        )


def load_live(
    command: Load,
    tell: Callable[[Loading | Noted], None],
    check: Callable[[], None],
    *,
    make_room: Callable[[], None] = lambda: None,
    dtype: str | None = None,
    memory: int | None = None,
) -> LiveModel:
    """Loads what a command names, layer by layer.

    A mixture of experts that does not fit is held in part, with a note of it.
    check: called before each step; it raises to end the loading.
    make_room: called once the files are there and understood, before any weight is read.
    dtype: of activations; None: the device's own.
    memory: bytes that it may take with all that it reads; None: what the machine gives.
    Raises: as `mlx_mistral.loading.load`, and CacheError.
    """

    def stage(name: str, done: int = 0, total: int = 0) -> None:
        check()
        tell(Loading(model=command.model, stage=name, done=done, total=total))

    stage("finding")
    folder = resolve(command.model, report=lambda done, total: stage("downloading", done, total))
    stage("tokenizer")
    tokenizer = load_tokenizer(folder)
    stage("headers")
    checkpoint = Checkpoint(folder)
    model = hollow_model(checkpoint, str(folder))
    width = resolve_dtype(dtype)
    budget_bytes = memory or _memory_limit() or None
    room = None
    if budget_bytes is not None:
        room = check_room(
            checkpoint.headers,
            budget_bytes,
            name=command.model,
            dtype=width,
            context=command.context,
        )
    resident = {
        name: parameter
        for name, parameter in checkpoint.parameters.items()
        if room is None or EXPERTS not in name
    }
    done, total = 0, sum(parameter.nbytes for parameter in resident.values())

    def before(path: str) -> None:
        nonlocal done
        stage("weights", done, total)
        done += sum(one.nbytes for name, one in resident.items() if name.startswith(f"{path}."))

    make_room()
    held_bytes = weights_in_memory(resident, width.size)
    if room is None or budget_bytes is None:
        for path, module in parts(model):
            before(path)
            fill(module, checkpoint, path, width)
            fuse(module)
    else:
        from mlx_mistral.streaming import load_streaming

        model = streamed = load_streaming(
            folder, budget_bytes=room, dtype=width, before_part=before
        )
        held_bytes += streamed.streaming.budget_bytes
        tell(Noted(line=held_in_part(streamed, command.model, budget_bytes)))
    stage("weights", total, total)
    model.budget_bytes = budget_bytes
    facts = _facts(command, checkpoint, tokenizer, held_bytes)
    return LiveModel(model, tokenizer, facts, command.context)


def _facts(
    command: Load, checkpoint: Checkpoint, tokenizer: Tokenizer, held_bytes: int
) -> ModelFacts:
    headers, config = checkpoint.headers, checkpoint.config
    contexts = [n for n in (command.context, config.max_context) if n is not None]
    return ModelFacts(
        name=command.model,
        family=config.family,
        parameters=headers.parameter_count,
        active_parameters=headers.active_parameter_count,
        weight_bytes=held_bytes,
        bits_per_weight=8 * headers.weight_bytes / max(headers.parameter_count, 1),
        n_layers=config.n_layers,
        windows=config.windows,
        n_experts=config.moe.num_experts if config.moe else 0,
        experts_per_token=config.moe.num_experts_per_tok if config.moe else 0,
        context=min(contexts, default=None),
        has_chat_format=_has_chat_format(tokenizer),
    )


def _has_chat_format(tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.encode_chat([{"role": "user", "content": "?"}])
    except TokenizerError:
        return False
    return True


def _memory_limit() -> int:
    """0 where the system does not tell."""
    return machine_budget() or 0
