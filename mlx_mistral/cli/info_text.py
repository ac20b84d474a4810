"""A model's figures with what they mean, one subject a line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_mistral.config import ModelConfig, arithmetic
from mlx_mistral.config.sizes import size_text as bytes_text

if TYPE_CHECKING:
    from mlx_mistral.checkpoint import Headers

LABEL_WIDTH = 14


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What is told of a tokenizer: its version and how it writes a chat."""

    version: str
    chat_format: str | None


def bits_per_weight(headers: Headers) -> float:
    """Stored bits for each weight, scales and biases of quantized groups included."""
    return 8 * headers.weight_bytes / headers.parameter_count


def to_lines(name: str, headers: Headers, tokenizer: TokenizerFacts | None) -> list[str]:
    """The figures with what they mean, one subject a line."""
    config = headers.config
    lines = [
        f"{name}: {config.family}, {headers.layout} layout",
        "",
        _row("layers", f"{config.n_layers} of width {config.dim:,}"),
        _row("attention", _attention(config)),
        _row("feed-forward", _feed_forward(config)),
        _row("vocabulary", _vocabulary(config)),
        _row("context", _context(config)),
        _row("window", _window(config)),
        "",
        _row("parameters", _parameters(headers)),
        _row(
            "weights",
            f"{bytes_text(headers.weight_bytes)}, {bits_per_weight(headers):.2f} bits "
            f"a weight, {_stored(headers)}",
        ),
        _row("cache", _cache(config)),
        _row("compute", _compute(config)),
        "",
    ]
    if tokenizer is None:
        return [*lines, _row("tokenizer", "not looked at")]
    lines.append(_row("tokenizer", tokenizer.version))
    if tokenizer.chat_format:
        lines.append(_row("chat format", tokenizer.chat_format))
    return lines


def _attention(config: ModelConfig) -> str:
    shared = arithmetic.kv_compression(config)
    text = f"{config.n_heads} query heads of {config.head_dim}"
    if shared == 1:
        return f"{text}, each with its own keys and values"
    return (
        f"{text} share {config.n_kv_heads} key/value heads, {shared} to one: "
        f"the cache is {shared} times smaller"
    )


def _feed_forward(config: ModelConfig) -> str:
    if config.moe is None:
        return f"SwiGLU of width {config.hidden_dim:,}"
    return (
        f"{config.moe.num_experts} experts, SwiGLU of width {config.hidden_dim:,}; "
        f"a router sends each token to {config.moe.num_experts_per_tok}"
    )


def _vocabulary(config: ModelConfig) -> str:
    tied = "one table reads and writes them" if config.tied_embeddings else "untied head"
    return f"{config.vocab_size:,} tokens, {tied}"


def _context(config: ModelConfig) -> str:
    stated = f"{config.max_context:,} tokens" if config.max_context else "not stated"
    theta = f"RoPE theta {config.rope_theta:,.0f}"
    if config.yarn:
        theta += f", YaRN x{config.yarn.factor:g} from {config.yarn.original_context:,}"
    if config.query_scaling:
        theta += f", queries scaled past {config.query_scaling.original_context:,}"
    return f"{stated}, {theta}"


def _window(config: ModelConfig) -> str:
    width = config.sliding_window
    if width is None:
        return "none: every token sees all before it"
    reach = arithmetic.receptive_field(config)
    if reach is None:
        windowed = sum(window is not None for window in config.windows)
        return (
            f"{width:,} tokens in {windowed} of {config.n_layers} layers; "
            "the others see everything, so nothing is out of reach"
        )
    return (
        f"{width:,} tokens, the token itself included; "
        f"{config.n_layers} layers x {width:,} = {reach:,} tokens of reach"
    )


def _parameters(headers: Headers) -> str:
    total, active = headers.parameter_count, headers.active_parameter_count
    if total == active:
        return f"{total:,} ({_short(total)}), all active"
    return (
        f"{total:,} ({_short(total)}), of which {active:,} ({_short(active)}, "
        f"{active / total:.0%}) are active for a token"
    )


def _stored(headers: Headers) -> str:
    quantization = headers.config.quantization
    if quantization is None:
        kinds = sorted({piece.dtype for piece in headers.parameters.values()})
        return "stored as " + " and ".join(kinds)
    default = quantization.default
    return f"{default.mode} quantization, {default.bits} bits in groups of {default.group_size}"


def _cache(config: ModelConfig) -> str:
    per_token = arithmetic.kv_bytes_per_token(config)
    unshared = per_token * arithmetic.kv_compression(config)
    text = f"{bytes_text(per_token)} a token in 16 bits"
    if unshared != per_token:
        text += f" ({bytes_text(unshared)} if heads shared nothing)"
    width = config.sliding_window
    if config.is_windowed and width is not None:
        text += f"; the window bounds it at {bytes_text(arithmetic.cache_bytes(config, width))}"
    elif config.max_context:
        whole = arithmetic.cache_bytes(config, config.max_context)
        text += f"; {bytes_text(whole)} at {config.max_context:,} tokens"
    return text


def _compute(config: ModelConfig) -> str:
    per_key = arithmetic.attention_flops_per_key(config)
    return (
        f"{_short(arithmetic.flops_per_token(config))} FLOPs a token in matrix products, "
        f"and {_short(per_key)} for each token it sees"
    )


def _row(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def _short(number: int) -> str:
    for letter, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
