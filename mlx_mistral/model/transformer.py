"""The model: embeddings, layers, norm, head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import mlx.core as mx
import mlx.nn as nn

from mlx_mistral.backend.ops import Rotation
from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache import KVCache, Mask, SharedPrefixes, attention_mask, make_cache
from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import ContextError

from .attention import Attention
from .feed_forward import FeedForward
from .fingerprint import fingerprint
from .layers import Linear, RMSNorm
from .moe import SparseMoE
from .rope import RotaryEmbedding, query_scale


class Model(nn.Module):
    """A Mistral language model. Parameters carry the names of converted checkpoints.

    Raises nothing for a token id outside the vocabulary, since looking would mean waiting
    for the device: such a token makes its text's logits NaN and reads no other memory.
    """

    is_traceable = True
    """Whether a pass is one graph. Not so where the host looks at a router's choice on the way:
    then it cannot be compiled."""

    budget_bytes: int | None = None
    """What the model, its caches and its work may take of memory together; None: nobody said."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        active_backend()  # chosen by the device in use when the first model is made
        self._config = config
        self.model = Decoder(config)
        if not config.tied_embeddings:
            self.lm_head = Linear(config.dim, config.vocab_size, bias=False)

    @property
    def reserved_bytes(self) -> int:
        """Memory that the model will still take by itself; its weights are there."""
        return 0

    @cached_property
    def prefixes(self) -> SharedPrefixes:
        """The texts that chats with this model have read."""
        return SharedPrefixes()

    @property
    def config(self) -> ModelConfig:
        return self._config

    @property
    def layers(self) -> list[Block]:
        return self.model.layers

    @property
    def dtype(self) -> mx.Dtype:
        """The type that activations have."""
        return self.model.norm.weight.dtype

    def __call__(self, tokens: mx.array, cache: Sequence[KVCache] | None = None) -> mx.array:
        """Shapes: (B, T) ints -> (B, T, vocab) logits."""
        return self.head(self.model(tokens, cache))

    def head(self, hidden: mx.array) -> mx.array:
        """Shapes: (B, T, dim) -> (B, T, vocab)."""
        tied = self._config.tied_embeddings
        logits: mx.array = (
            self.model.embed_tokens.as_linear(hidden) if tied else self.lm_head(hidden)
        )
        return logits

    def fingerprint(self) -> str:
        """Names what this model computes; the same for the same weights and configuration."""
        return fingerprint(self)

    def make_cache(
        self,
        *,
        context: int | None = None,
        kv_bits: int | None = None,
        left_padding: Sequence[int] | None = None,
    ) -> list[KVCache]:
        """One cache a layer; see `mlx_mistral.cache.make_cache`.

        Raises: ContextError: the model has fewer positions than this context.
        """
        longest = self._config.max_context
        if context is not None and longest is not None and context > longest:
            raise ContextError(
                f"a context of {context} tokens is asked for, the model has {longest}; "
                f"ask for at most {longest}, or leave it out"
            )
        return make_cache(
            self._config.windows,
            context=context,
            kv_bits=kv_bits,
            left_padding=left_padding,
            head_dim=self._config.head_dim,
        )


class Decoder(nn.Module):
    """Embeddings to the last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = [Block(config) for _ in range(config.n_layers)]
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self._rope = RotaryEmbedding(config)

    def __call__(
        self,
        tokens: mx.array,
        cache: Sequence[KVCache] | None = None,
        before_layer: Callable[[mx.array], None] | None = None,
        *,
        last_only: bool = False,
    ) -> mx.array:
        """Shapes: (B, T) ints -> (B, T, dim).

        before_layer: given each layer's input, which is not computed yet.
        last_only: what follows the last token is asked for: -> (B, 1, dim). The last layer then
            remembers all tokens and works on this one, as no layer after it sees the others.
        """
        n_new = tokens.shape[1]
        # All layers are at the same place; what depends on it alone is made once.
        position = cache[0].position if cache else mx.array(0)
        scaling = self._config.query_scaling
        scale = query_scale(scaling, position, n_new) if scaling else None
        masks = self._masks(n_new, cache)
        x = self.embed(tokens)
        rotation = self.rotation(position, n_new, x.dtype)
        caches: Sequence[KVCache | None] = cache or [None] * len(self.layers)
        for layer, window, layer_cache in zip(
            self.layers, self._config.windows, caches, strict=True
        ):
            if before_layer is not None:
                before_layer(x)
            is_last = last_only and layer is self.layers[-1]
            x = layer(x, rotation, masks[window], layer_cache, scale, is_last)
        return self.norm(x)

    def rotation(self, position: mx.array | int, n_new: int, dtype: mx.Dtype) -> Rotation:
        """Return the rotary embedding of n_new tokens. Shapes: position () or (B,)."""
        return self._rope(position, n_new=n_new, dtype=dtype)

    def _masks(self, n_new: int, cache: Sequence[KVCache] | None) -> dict[int | None, Mask]:
        """One mask for each width of window in the model."""
        if not cache:
            return {w: attention_mask(n_new, 0, w) for w in set(self._config.windows)}
        first_of_kind = dict(zip(reversed(self._config.windows), reversed(cache), strict=True))
        return {window: kind.make_mask(n_new) for window, kind in first_of_kind.items()}

    def embed(self, tokens: mx.array) -> mx.array:
        """Rows of the table; NaN for an id that it does not have. (...) ints -> (..., dim)."""
        known = (tokens >= 0) & (tokens < self._config.vocab_size)
        # MLX dequantizes some modes to bfloat16, whatever the other weights are.
        x = self.embed_tokens(mx.where(known, tokens, 0)).astype(self.norm.weight.dtype)
        return mx.where(known[..., None], x, mx.array(float("nan"), x.dtype))


class Block(nn.Module):
    """One layer: attention, then a feed-forward block or a mixture of them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.input_layernorm = RMSNorm(config.dim, eps=config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.dim, eps=config.norm_eps)
        if config.moe:
            self.block_sparse_moe = SparseMoE(config)
        else:
            self.mlp = FeedForward(config.dim, config.hidden_dim)

    def __call__(
        self,
        x: mx.array,
        rotation: Rotation,
        mask: Mask,
        cache: KVCache | None = None,
        query_scale: mx.array | None = None,
        last_only: bool = False,
    ) -> mx.array:
        """Shapes: (B, T, dim) -> (B, T, dim); with last_only (B, 1, dim), of the last token."""
        normed = self.input_layernorm(x)
        attended = self.self_attn(normed, rotation, mask, cache, query_scale, last_only)
        x = (x[:, -1:] if last_only else x) + attended
        feed_forward = self.block_sparse_moe if "block_sparse_moe" in self else self.mlp
        return x + feed_forward(self.post_attention_layernorm(x))
