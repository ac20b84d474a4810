"""Temporary memory of a pass: while a chunk of the prompt is prefilled, or a token is decoded.

What the formulas assume:
- One sequence, prefilled in chunks of as many tokens as `tuning` says.
- What depends on the device comes from the backend's scratch sizes: scores of attention, unpacked
  matrices, layers in flight.
- The counts of arrays are the peaks of models in which that array is larger than all others, on
  MLX's CPU device. There MLX allocates up to two layers ahead of what is computed: the feed-forward
  of a layer exists together with the attention of the next one, but never two of a kind.

Letters: T tokens of a chunk, S visible tokens, H query heads, K key/value heads, D head_dim,
W window, E experts, k experts a token.
"""

from __future__ import annotations

from mlx_mistral.backend.scratch import ScratchSizes
from mlx_mistral.config import ModelConfig
from mlx_mistral.tuning import PREFILL_TOKENS as PREFILL_TOKENS
from mlx_mistral.tuning import rule

from .cache import cache_bytes, pair_bytes, ring_bytes, stored_bytes

HIDDEN_STATES, QUERIES, KEYS_AND_VALUES, FEED_FORWARDS = 9, 6, 3, 3
"""Arrays of a layer's prefill with the shape of hidden states (T, dim), of queries (T, H * D), of
keys and values (T, 2 * K * D) and of the feed-forward (T, hidden_dim)."""
EXPERT_ROWS = 3
"""Arrays (T * k, dim) of a mixture: sorted, multiplied by the experts, put back in order."""
CHAT_PLACES = 2
"""Moments of a conversation that a Chat can go back to; each holds all rings."""
ID_BYTES, OTHER_BYTES = 4, 4096
"""Of a token's id on the device; and of tables of positions and the like, which nobody would miss
but who counts to the byte."""
VOCABULARY_ROWS = 24
"""Arrays of a number for each word that sampling may hold: logits, their order, their shares."""


def workspace_bytes(
    config: ModelConfig,
    context: int,
    activation_bytes: int,
    *,
    scratch: ScratchSizes,
    kept_places: int = CHAT_PLACES,
    loading_bytes: int = 0,
    kv_bits: int | None = None,
    prefill_tokens: int | None = None,
) -> int:
    """The most that MLX holds beside weights and cache, for a text of `context` tokens.

    kept_places: see `CHAT_PLACES`; 0 where every prompt is read from its start, as `generate`
        does.
    scratch: of the backend's operations for this model.
    loading_bytes: what loading holds beside the weights; no cache and no text are there yet.
    kv_bits: of a quantized cache, whose keys and values are dequantized for each chunk.
    prefill_tokens: of a chunk; None: as many as where nothing was measured.
    """
    b = activation_bytes
    n_new = min(prefill_tokens or rule(config), context)
    rings = ring_bytes(config, context, b, kv_bits)
    grown = stored_bytes(config, context, b, kv_bits) if None in config.windows else 0
    # A place that is kept while n tokens are read is one before them.
    passing = max(
        pass_bytes(config, n, context, b, scratch=scratch, kv_bits=kv_bits)
        + kept_places * ring_bytes(config, context - n, b, kv_bits)
        for n in {n_new, 1}
    )
    held = passing + rings + grown + context * ID_BYTES + OTHER_BYTES
    # While the model loads, what is set aside for the cache is still free.
    return max(held, loading_bytes - cache_bytes(config, context, b, kv_bits))


def pass_bytes(
    config: ModelConfig,
    n_new: int,
    context: int,
    activation_bytes: int,
    *,
    scratch: ScratchSizes,
    kv_bits: int | None = None,
) -> int:
    """What one pass over n tokens writes and frees again, caches aside, in a text of `context`.

    One token is decoded, with the pass before it still under way. Arguments as in
    `workspace_bytes`.
    """
    b = activation_bytes
    if n_new == 1:
        layers = _decode(config, context, b, scratch, kv_bits)
    else:
        layer = _prefill(config, n_new, context, b, scratch, kv_bits)
        layers = scratch.in_flight(config, layer, b)
    matrices = scratch.linear(config, n_new, b) + scratch.widened_experts(config, b)
    sampling = 4 * VOCABULARY_ROWS * config.vocab_size
    return layers + matrices + sampling


def _prefill(
    config: ModelConfig,
    n_new: int,
    context: int,
    b: int,
    scratch: ScratchSizes,
    kv_bits: int | None,
) -> int:
    """Return the bytes of one layer's arrays and of those that exist together with them."""
    hidden = HIDDEN_STATES * n_new * config.dim * scratch.norm_bytes(b)
    queries = n_new * config.n_heads * config.head_dim * (b + scratch.norm_bytes(b)) * QUERIES // 2
    pairs = KEYS_AND_VALUES * pair_bytes(config, n_new, scratch.norm_bytes(b))
    attention = max(
        scratch.attention(config, window, n_new, context, b)
        + _past(config, window, n_new, context, b, kv_bits)
        for window in set(config.windows)
    )
    return hidden + queries + pairs + attention + _feed_forward(config, n_new, b, scratch)


def _past(
    config: ModelConfig, window: int | None, n_new: int, context: int, b: int, kv_bits: int | None
) -> int:
    """Return the bytes of a layer's keys and values, where attention reads copies of them.

    A ring is put back in order, then joined with the chunk. A quantized cache is cut out of its
    buffer and dequantized, for one layer while the next one is allocated.
    """
    n_past = context - n_new if window is None else min(window - 1, context - n_new)
    copies = 0
    if window is not None and context > window:
        copies = pair_bytes(config, n_past, b) + pair_bytes(config, n_past + n_new, b)
    if kv_bits is None:
        return copies
    seen = n_past + n_new
    return copies + 2 * (pair_bytes(config, seen, b) + stored_bytes(config, seen, b, kv_bits))


def _feed_forward(config: ModelConfig, n_new: int, b: int, scratch: ScratchSizes) -> int:
    """Return the bytes of gate, up and their product; of k rows a token in a mixture."""
    if config.moe is None:
        return FEED_FORWARDS * n_new * config.hidden_dim * b
    rows = n_new * config.moe.num_experts_per_tok
    expert_bytes = 4 if scratch.widened_experts(config, b) else b
    return rows * (FEED_FORWARDS * config.hidden_dim * expert_bytes + EXPERT_ROWS * config.dim * 4)


def _decode(
    config: ModelConfig, context: int, b: int, scratch: ScratchSizes, kv_bits: int | None
) -> int:
    """Return the bytes of one token's attention and feed-forward, with two steps in flight."""
    seen = max(context if window is None else min(context, window) for window in config.windows)
    attention = scratch.decode_attention(config, seen, b, kv_bits)
    if kv_bits is not None and config.n_heads * 4 > pair_bytes(config, 1, b):
        # Scores would be larger than keys and values: these are dequantized.
        attention += _past(config, None, 1, seen, b, kv_bits)
    return attention + 2 * _feed_forward(config, 1, b, scratch)
