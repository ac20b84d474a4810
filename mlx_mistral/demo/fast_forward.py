"""The model's forward pass as training on a processor wants it.

Same parameters and same mathematics as `mlx_mistral.model`, in shapes that BLAS likes: tokens
are dealt to experts in padded blocks instead of one by one, and exponentials, which the CPU
backend computes one at a time, are polynomials.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import mlx.core as mx

from mlx_mistral.backend.ops import Rotation
from mlx_mistral.model import Model, SparseMoE

CAPACITY_FACTOR = 4 / 3
"""Room in an expert's block against its fair share; tokens beyond it miss that expert."""


def _exp_of(x: mx.array) -> mx.array:
    """exp(x) for -80 <= x <= 60 and the nearer bound beyond; near 0 to 1e-6, at -12 to 1e-4."""
    y = mx.clip(x, -80.0, 60.0) * (1 / 64)
    p = 1 + y * (1 + y * (1 / 2 + y * (1 / 6 + y * (1 / 24))))
    for _ in range(6):
        p = p * p
    return p


@partial(mx.compile, shapeless=True)
def _exp(x: mx.array) -> mx.array:
    return _exp_of(x)


@partial(mx.compile, shapeless=True)
def _swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return gate * up / (1 + _exp_of(-gate))


@partial(mx.compile, shapeless=True)
def _swiglu_grad(gate: mx.array, up: mx.array, grad: mx.array) -> tuple[mx.array, mx.array]:
    s = 1 / (1 + _exp_of(-gate))
    gs = gate * s
    return grad * up * (s + gs - gs * s), grad * gs


@mx.custom_function
def softmax(scores: mx.array) -> mx.array:
    """Over the last axis, without subtracting the largest: the clipped exponential is safe."""
    e = _exp(scores)
    return e * (1 / e.sum(axis=-1, keepdims=True))


@softmax.vjp
def _softmax_vjp(_: mx.array, grad: mx.array, p: mx.array) -> mx.array:
    pg = p * grad
    return pg - p * pg.sum(axis=-1, keepdims=True)


@mx.custom_function
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    return _swiglu(gate, up)


@swiglu.vjp
def _swiglu_vjp(
    inputs: tuple[mx.array, mx.array], grad: mx.array, _: mx.array
) -> tuple[mx.array, mx.array]:
    return _swiglu_grad(*inputs, grad)


@mx.custom_function
def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """Shapes: (N, V), (N,) -> (N,)."""
    top = mx.max(logits, axis=-1, keepdims=True)
    total = _exp(logits - top).sum(axis=-1, keepdims=True)
    right = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (mx.log(total) + top - right).squeeze(-1)


@cross_entropy.vjp
def _cross_entropy_vjp(
    inputs: tuple[mx.array, mx.array], grad: mx.array, loss: mx.array
) -> tuple[mx.array, mx.array]:
    logits, targets = inputs
    right = mx.take_along_axis(logits, targets[:, None], axis=-1)
    p = _exp(logits - (right + loss[:, None]))
    is_target = mx.arange(logits.shape[-1])[None] == targets[:, None]
    return (p - is_target) * grad[:, None], mx.zeros_like(targets)


@mx.custom_function
def permute_rows(x: mx.array, index: mx.array, inverse: mx.array) -> mx.array:
    """x[index], where index len(x) gives zeros; `inverse` undoes it.

    Both directions are gathers, which the CPU backend does far faster than scatters.
    """
    return _take(x, index)


@permute_rows.vjp
def _permute_rows_vjp(
    inputs: tuple[mx.array, mx.array, mx.array], grad: mx.array, _: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    _, index, inverse = inputs
    return _take(grad, inverse), mx.zeros_like(index), mx.zeros_like(inverse)


def _take(x: mx.array, index: mx.array) -> mx.array:
    return mx.pad(x, [(0, 1), (0, 0)])[index]


def deal(chosen: mx.array, num_experts: int, capacity: int) -> tuple[mx.array, mx.array, mx.array]:
    """Which slot of which expert's block each choice gets.

    Shapes: (N, k) -> slot -> choice (E * C,), choice -> slot (N * k,), counts (E,).
    An index one past the end stands for nobody, or for no room.
    """
    flat = chosen.flatten()
    order = mx.argsort(flat)
    counts = (flat[:, None] == mx.arange(num_experts)[None]).sum(axis=0)
    starts = mx.cumsum(counts) - counts
    places = mx.arange(capacity)[None]
    sources = order[mx.minimum(starts[:, None] + places, flat.size - 1)]
    choice_of_slot = mx.where(places < counts[:, None], sources, flat.size).flatten()
    places = mx.argsort(order) - starts[flat]
    slot_of_choice = mx.where(places < capacity, flat * capacity + places, num_experts * capacity)
    return choice_of_slot, slot_of_choice, counts


def experts(
    moe: SparseMoE, x: mx.array, capacity_factor: float = CAPACITY_FACTOR
) -> tuple[mx.array, mx.array]:
    """The mixture's output, and the load-balancing loss (1 when experts are equally used).

    Shapes: (N, dim) -> (N, dim), ().
    Source of the loss: arXiv:2101.03961, section 2.2.
    """
    chosen, weights = moe.route(x)
    n, k = chosen.shape
    num_experts = moe.gate.weight.shape[0]
    capacity = min(n, int(n * k / num_experts * capacity_factor))
    choice_of_slot, slot_of_choice, counts = deal(chosen, num_experts, capacity)

    rows = mx.broadcast_to(x[:, None], (n, k, x.shape[-1])).reshape(n * k, -1)
    blocks: Any = permute_rows(rows, choice_of_slot, slot_of_choice)
    blocks = blocks.reshape(num_experts, capacity, -1)
    mlp = moe.switch_mlp
    gate = blocks @ mlp.gate_proj.weight.swapaxes(-1, -2)
    up = blocks @ mlp.up_proj.weight.swapaxes(-1, -2)
    hidden: Any = swiglu(gate, up)
    out: Any = hidden @ mlp.down_proj.weight.swapaxes(-1, -2)
    out = permute_rows(out.reshape(num_experts * capacity, -1), slot_of_choice, choice_of_slot)
    out = (out.reshape(n, k, -1) * weights[..., None]).sum(axis=1)

    share = mx.softmax(moe.gate(x), axis=-1).mean(axis=0)
    balance = num_experts * (share * (counts / (n * k))).sum()
    return out, balance


def attention(layer: Any, x: mx.array, rotation: Rotation, window: int, mask: mx.array) -> mx.array:
    """Windowed attention in blocks of `window` queries over two blocks of keys.

    Shapes: (B, T, dim) -> (B, T, dim), T a multiple of the window; mask (n, 1, 1, W, 2 W).
    """
    batch, length, _ = x.shape
    n = length // window

    def heads(y: mx.array) -> mx.array:
        return y.reshape(batch, length, -1, layer._head_dim).swapaxes(1, 2)

    q = rotation(heads(layer.q_proj(x))) * layer._scale
    k = rotation(heads(layer.k_proj(x)))
    v = heads(layer.v_proj(x))
    groups, kv_heads = q.shape[1] // k.shape[1], k.shape[1]
    q = q.reshape(batch, kv_heads, groups, n, window, -1).transpose(0, 1, 3, 2, 4, 5)
    q = q.reshape(batch, kv_heads, n, groups * window, -1)
    k, v = _with_block_before(k, window), _with_block_before(v, window)
    scores = q @ k.swapaxes(-1, -2)  # (B, K, n, G * W, 2 W)
    scores = scores.reshape(batch, kv_heads, n, groups, window, 2 * window) + mask
    shares: Any = softmax(scores)
    p = shares.reshape(batch, kv_heads, n, groups * window, 2 * window)
    out = (p @ v).reshape(batch, kv_heads, n, groups, window, -1)
    out = out.transpose(0, 2, 4, 1, 3, 5).reshape(batch, length, -1)
    projected: mx.array = layer.o_proj(out)
    return projected


def _with_block_before(x: mx.array, window: int) -> mx.array:
    """(B, K, n * W, D) -> (B, K, n, 2 W, D)."""
    batch, heads, length, dim = x.shape
    padded = mx.pad(x, [(0, 0), (0, 0), (window, 0), (0, 0)])
    blocks = padded.reshape(batch, heads, length // window + 1, window, dim)
    return mx.concatenate([blocks[:, :, :-1], blocks[:, :, 1:]], axis=3)


def band(length: int, window: int) -> mx.array:
    """The additive mask of `attention`: 0 or -1e9. Shape: (n, 1, W, 2 W)."""
    distance = mx.arange(window, 2 * window)[:, None] - mx.arange(2 * window)[None]
    seen = (distance >= 0) & (distance < window)
    first = seen & (mx.arange(2 * window)[None] >= window)
    masks = mx.stack([first] + [seen] * (length // window - 1))
    return mx.where(masks, 0.0, -1e9)[:, None]


def hidden_states(
    model: Model, tokens: mx.array, mask: mx.array, capacity_factor: float = CAPACITY_FACTOR
) -> tuple[mx.array, mx.array, list[mx.array]]:
    """The states before the output head, the mean load-balancing loss, and each layer's states.

    Shapes: (B, T) ints, T a multiple of the window -> (B, T, dim), (), (B, T, dim) a layer.
    """
    decoder = model.model
    x = decoder.embed_tokens(tokens)
    rotation = decoder.rotation(0, tokens.shape[1], x.dtype)
    balance, states = mx.array(0.0), []
    for layer in decoder.layers:
        normed = layer.input_layernorm(x)
        x = x + attention(layer.self_attn, normed, rotation, mask.shape[-2], mask)
        rows = layer.post_attention_layernorm(x).reshape(-1, x.shape[-1])
        out, loss = experts(layer.block_sparse_moe, rows, capacity_factor)
        x = x + out.reshape(x.shape)
        balance = balance + loss / len(decoder.layers)
        states.append(x)
    return decoder.norm(x), balance, states
