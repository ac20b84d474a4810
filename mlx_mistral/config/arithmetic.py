"""What an architecture costs, by arithmetic on its numbers alone: no array, no file."""

from __future__ import annotations

from .model import ModelConfig


def parameters(config: ModelConfig) -> int:
    """All weights of the text model: embeddings, layers, norms, head."""
    return _outside_layers(config) + config.n_layers * (
        _attention(config) + _norms(config) + _feed_forward(config, _experts_stored(config))
    )


def active_parameters(config: ModelConfig) -> int:
    """The weights that one token meets: of the experts, those that its router picks."""
    return _outside_layers(config) + config.n_layers * (
        _attention(config) + _norms(config) + _feed_forward(config, _experts_used(config))
    )


def flops_per_token(config: ModelConfig) -> int:
    """Multiplications and additions of all matrix products for one token.

    Two a weight. Looking a token up in the embedding table multiplies nothing, so the table
    counts where it is also the head and not otherwise. Comparing the token with those before
    it comes on top: `attention_flops_per_key`.
    """
    head = config.vocab_size * config.dim
    layer = _attention(config) + _feed_forward(config, _experts_used(config))
    return 2 * (head + config.n_layers * layer)


def attention_flops_per_key(config: ModelConfig) -> int:
    """FLOPs a token spends on each token that it sees: one score and one weighted sum a head."""
    return 4 * config.n_layers * config.n_heads * config.head_dim


def kv_bytes_per_token(config: ModelConfig, *, bytes_per_element: int = 2) -> int:
    """Bytes that the keys and values of one token take in all layers; 16-bit unless told."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * bytes_per_element


def kv_compression(config: ModelConfig) -> int:
    """Query heads that share one key/value head: how much smaller the cache is than without."""
    return config.n_heads // config.n_kv_heads


def cache_bytes(config: ModelConfig, n_tokens: int, *, bytes_per_element: int = 2) -> int:
    """Bytes of a cache that has read `n_tokens`: a layer with a window holds no more than it."""
    held = sum(n_tokens if window is None else min(n_tokens, window) for window in config.windows)
    return held * kv_bytes_per_token(config, bytes_per_element=bytes_per_element) // config.n_layers


def receptive_field(config: ModelConfig) -> int | None:
    """Layers x window: how far back a token can reach, each layer passing on what it saw.

    None where a layer sees everything, since then nothing is out of reach.
    Source: arXiv:2310.06825, section 2.
    """
    total = 0
    for window in config.windows:
        if window is None:
            return None
        total += window
    return total


def _outside_layers(config: ModelConfig) -> int:
    tables = 1 if config.tied_embeddings else 2
    return tables * config.vocab_size * config.dim + config.dim


def _attention(config: ModelConfig) -> int:
    return config.dim * config.head_dim * 2 * (config.n_heads + config.n_kv_heads)


def _norms(config: ModelConfig) -> int:
    return 2 * config.dim


def _feed_forward(config: ModelConfig, n_experts: int) -> int:
    router = config.dim * config.moe.num_experts if config.moe else 0
    return router + n_experts * 3 * config.dim * config.hidden_dim


def _experts_stored(config: ModelConfig) -> int:
    return config.moe.num_experts if config.moe else 1


def _experts_used(config: ModelConfig) -> int:
    return config.moe.num_experts_per_tok if config.moe else 1
