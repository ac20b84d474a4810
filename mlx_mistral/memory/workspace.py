"""Bytes that are held for a moment: while a chunk of the prompt is read, or a token is made.

What the formulas assume:
- One text, read in chunks of as many tokens as `tuning` says.
- Attention is not fused: the scores of all heads over a block of queries and all that it sees
  are written out, as on the CPU backend. Fused kernels on a GPU write none of them, so there
  the sum is too large by them; nothing has been measured there, and what the device
  holds in flight is not counted either.
- MLX allocates a few steps ahead of what is computed: while one layer's feed-forward is still
  held, of a mixture some of it, the next layer's attention may be there, but never two of a
  kind. How many copies of each array live at once has been counted on the CPU backend, with a
  little to spare.

Letters: T tokens of a chunk, S visible tokens, H query heads, K key/value heads, D head_dim,
W window, E experts, k experts a token.
"""

from __future__ import annotations

from mlx_mistral.backend.scratch import (
    CHUNK_WEIGHTS,
    CPU_QUERY_CHUNK,
    MAX_CHUNKS,
    MIN_ROWS,
    ScratchSizes,
)
from mlx_mistral.config import ModelConfig
from mlx_mistral.tuning import PREFILL_TOKENS as PREFILL_TOKENS
from mlx_mistral.tuning import rule

from .cache import cache_bytes, pair_bytes, ring_bytes, stored_bytes

BLOCKS_AT_ONCE = 10
"""Of attention's blocks of queries, those that MLX holds together: all 4 of a chunk of 512, all 8
of 1024, and up to 10 of longer ones."""
PIECES_AT_ONCE = 8
"""Of a quantized matrix that is unpacked, those that MLX holds together."""
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
    b, widens_experts = activation_bytes, scratch.widens_experts and activation_bytes < 4
    expert_bytes = 4 if widens_experts else b
    of_layers = _prefill if n_new > 1 else _decode
    dequantized = 0 if kv_bits is None else _dequantized(config, n_new, context, b, kv_bits)
    casts = _experts_in_float32(config) if widens_experts else 0
    sampling = 4 * VOCABULARY_ROWS * config.vocab_size
    passing = of_layers(config, n_new, context, b, expert_bytes) + casts + dequantized + sampling
    unpacks = scratch.unpacks_linear and b == 4
    return passing + (_unpacked(config, n_new) if unpacks else 0)


def _prefill(config: ModelConfig, n_new: int, context: int, b: int, expert_bytes: int) -> int:
    """A chunk between two layers: hidden states, projections, attention and feed-forward."""
    # Norms and RoPE compute in float32, whatever goes in and out.
    hidden = 9 * n_new * config.dim * 4
    queries = n_new * config.n_heads * config.head_dim * 4
    projections = 2 * queries + 3 * pair_bytes(config, n_new, 4)
    attention = max(_attention(config, window, n_new, context, b) for window in set(config.windows))
    feed_forward = _feed_forward(config, n_new, b, expert_bytes)
    if config.moe is None or expert_bytes != b:  # one made float32 waits beside all else
        return hidden + projections + attention + feed_forward
    # Experts are many steps long: of theirs, the next attention meets the rows as wide as hidden
    # states, not the wider ones between the matrices.
    rows = 4 * n_new * config.moe.num_experts_per_tok * config.dim * 4
    return hidden + projections + max(attention + rows, feed_forward)


def _attention(config: ModelConfig, window: int | None, n_new: int, context: int, b: int) -> int:
    """Scores and masks of blocks; queries scaled, and the result in pieces and whole."""
    queries = n_new * config.n_heads * config.head_dim * b
    rows = min(CPU_QUERY_CHUNK, n_new)
    widest = context if window is None else min(context, window + rows)
    ends = range(context, context - min(BLOCKS_AT_ONCE * rows, n_new), -rows)
    scores = rows * sum(min(end, widest) for end in ends)
    blocks = scores * (config.n_heads * b + 1) + 3 * queries
    if window is None or context <= window:
        return blocks
    # The past is put back in order, then joined with the chunk; int32 columns make the mask.
    past = min(window - 1, context - n_new)
    copies = pair_bytes(config, past, b) + pair_bytes(config, past + n_new, b)
    return blocks + 8 * rows * widest + copies


def _dequantized(config: ModelConfig, n_new: int, context: int, b: int, kv_bits: int) -> int:
    """What one layer sees while the next layer's is made: cut out, and as wide as activations."""
    seen = max(
        context if window is None else min(context, window + n_new) for window in config.windows
    )
    return 2 * (pair_bytes(config, seen, b) + stored_bytes(config, seen, b, kv_bits))


def _unpacked(config: ModelConfig, n_new: int) -> int:
    """A quantized matrix as it is multiplied by many rows in float32: pieces, and their products.

    The products are there when they are joined. Maps of one input are one matrix.
    """
    if config.quantization is None or n_new < MIN_ROWS:
        return 0
    heads = config.n_heads * config.head_dim
    sizes = [(heads + 2 * config.n_kv_heads * config.head_dim, config.dim), (config.dim, heads)]
    if config.moe is None:
        sizes += [(2 * config.hidden_dim, config.dim), (config.dim, config.hidden_dim)]
    return max(
        4 * min(out * wide, PIECES_AT_ONCE * max(CHUNK_WEIGHTS, -(-out // MAX_CHUNKS) * wide))
        + 4 * n_new * out
        for out, wide in sizes
    )


def _feed_forward(config: ModelConfig, n_new: int, b: int, expert_bytes: int) -> int:
    """Gate, up and their product.

    In a mixture of experts there are k rows a token: sorted, worked on, put back and weighted.
    """
    if config.moe is None:
        return 3 * n_new * config.hidden_dim * b
    rows = n_new * config.moe.num_experts_per_tok
    return rows * (3 * config.hidden_dim * expert_bytes + 4 * config.dim * 4)


def _decode(config: ModelConfig, n_new: int, context: int, b: int, expert_bytes: int) -> int:
    """Two passes may be under way; each has scores over the whole text."""
    seen = max(context if window is None else min(context, window) for window in config.windows)
    return 2 * 3 * config.n_heads * seen * max(b, 4) + 2 * _feed_forward(
        config, n_new, b, expert_bytes
    )


def _experts_in_float32(config: ModelConfig) -> int:
    """The three stacks of one layer."""
    experts = config.moe.num_experts if config.moe else 0
    return 3 * 4 * experts * config.dim * config.hidden_dim
