"""What a model needs, from its headers or its configuration alone, ready to be planned for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlx_mistral.backend.scratch import ScratchSizes
from mlx_mistral.cache.quantized import can_quantize
from mlx_mistral.checkpoint.headers import Headers
from mlx_mistral.config import ModelConfig, arithmetic
from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.tuning import prefill_tokens

from .chips import Chip
from .plan import MemoryPlan, longest_fitting, plan_memory
from .speed import DecodeSpeed, decode_speed, unquantized_weights_read, weights_read
from .weights import (
    DEFAULT_GROUP,
    holds_plain_experts,
    loading_bytes,
    matrix_bytes_in_memory,
    uniform,
    uniform_weights_in_memory,
    weights_in_memory,
)
from .workspace import PREFILL_TOKENS

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number, by its dtype's name in MLX."""
FEWER_BITS = (8, 6, 5, 4, 3, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeeds:
    """A model as it will be held on a device: the one source of every plan for it."""

    config: ModelConfig
    dtype: str
    """Of activations, by its name in MLX."""
    weights_bytes: int
    """In memory, once loaded."""
    read_bytes: int
    """Of these, what one token reads."""
    scratch: ScratchSizes
    """Temporary memory of the operations where it will be computed."""
    loading_bytes: int = 0
    prefill_tokens: int = PREFILL_TOKENS
    """Of a prompt that are read at a time, where no plan says otherwise."""
    uniform_bytes: tuple[tuple[int, int], ...] = ()
    """Bits, and the bytes of the weights were they quantized to them; for unquantized models."""

    @classmethod
    def of(cls, headers: Headers, *, dtype: str, scratch: ScratchSizes) -> ModelNeeds:
        """From a checkpoint's headers. scratch: of the backend that will compute it."""
        parameters, size = headers.parameters, FLOAT_BYTES[dtype]
        is_plain = headers.config.quantization is None
        return cls(
            config=headers.config,
            dtype=dtype,
            weights_bytes=weights_in_memory(parameters, size),
            read_bytes=weights_read(headers.config, parameters, size),
            loading_bytes=loading_bytes(parameters, dtype),
            scratch=scratch.for_experts(is_quantized=not holds_plain_experts(parameters)),
            prefill_tokens=prefill_tokens(headers.config, dtype),
            uniform_bytes=tuple(
                (bits, uniform_weights_in_memory(parameters, bits, size))
                for bits in (FEWER_BITS if is_plain else ())
            ),
        )

    @classmethod
    def of_unquantized(
        cls, config: ModelConfig, *, dtype: str, scratch: ScratchSizes
    ) -> ModelNeeds:
        """Of a model of which only the architecture is known.

        Norms and routers count as if they were quantized too: less than a thousandth.
        """
        size, n_weights = FLOAT_BYTES[dtype], arithmetic.parameters(config)
        everything = (n_weights // DEFAULT_GROUP, DEFAULT_GROUP)
        return cls(
            config=config,
            dtype=dtype,
            weights_bytes=size * n_weights,
            read_bytes=unquantized_weights_read(config, size),
            scratch=scratch,
            prefill_tokens=prefill_tokens(config, dtype),
            uniform_bytes=tuple(
                (bits, matrix_bytes_in_memory(everything, uniform(bits), size))
                for bits in FEWER_BITS
            ),
        )

    @property
    def activation_bytes(self) -> int:
        return FLOAT_BYTES[self.dtype]

    def plan(
        self,
        context: int,
        budget_bytes: int,
        kv_bits: int | None = None,
        *,
        prefill_tokens: int | None = None,
    ) -> MemoryPlan:
        """Raises: ContextError: the model has no such context."""
        return plan_memory(
            self.config,
            weights_bytes=self.weights_bytes,
            context=context,
            budget_bytes=budget_bytes,
            activation_bytes=self.activation_bytes,
            scratch=self.scratch,
            loading_bytes=self.loading_bytes,
            kv_bits=kv_bits,
            prefill_tokens=prefill_tokens or self.prefill_tokens,
        )

    def max_context(
        self,
        budget_bytes: int,
        kv_bits: int | None = None,
        *,
        prefill_tokens: int | None = None,
    ) -> int:
        """The longest context that fits; 0 where not even one token does."""

        def fits(context: int) -> bool:
            return self.plan(context, budget_bytes, kv_bits, prefill_tokens=prefill_tokens).fits

        return longest_fitting(self.config, fits)

    def fitting_kv_bits(self, context: int, budget_bytes: int) -> int | None:
        """The widest quantized cache with which it would fit, if any is narrow enough."""
        if not can_quantize(self.config.head_dim):
            return None
        fits = (bits for bits in KV_BITS if self.plan(context, budget_bytes, bits).fits)
        return next(fits, None)

    def fitting_bits(self, context: int, budget_bytes: int) -> int | None:
        """The most bits a weight with which an unquantized model would fit, if any are enough."""
        for bits, weights_bytes in self.uniform_bytes:
            quantized = replace(
                self,
                weights_bytes=weights_bytes,
                loading_bytes=0,
                scratch=self.scratch.for_experts(is_quantized=True),
            )
            if quantized.plan(context, budget_bytes).fits:
                return bits
        return None

    def speed(self, chip: Chip | None, depth: int) -> DecodeSpeed | None:
        """The decoding speed to expect at a depth of so many tokens.

        None: for no chip, and for a model so small that memory does not bound it.
        """
        if chip is None:
            return None
        speed = decode_speed(
            self.config,
            chip,
            weights_bytes=self.read_bytes,
            depth=depth,
            activation_bytes=self.activation_bytes,
        )
        return speed if speed.is_memory_bound else None
