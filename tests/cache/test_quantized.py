"""Quantized caches against attention in NumPy, over random texts, cuts, trims and snapshots."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_reference import attention, numbers
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.cache import GrowingCache, KVCache, RotatingCache
from mlx_mistral.cache.factory import make_cache
from mlx_mistral.cache.quantized import QuantizedRows, quantize
from mlx_mistral.errors import CacheError
from mlx_mistral.model import Model
from mlx_mistral.model.attention import attend, join_heads
from mlx_mistral.model.quantized_attention import reads_quantized

H, K, D = 4, 2, 32
TOLERANCE = 2e-5
WINDOWS = [None, 1, 2, 3, 5, 8, 11, 64]


def rows_of(seed: int, n: int, heads: int = K, batch: int = 1, dim: int = D) -> mx.array:
    drawn = np.random.default_rng(seed).normal(size=(batch, heads, n, dim))
    return mx.array(drawn.astype(np.float32))


class Text:
    """A cache, and beside it all that it was given, quantized at once."""

    def __init__(self, window: int | None, bits: int, padding: tuple[int, ...]) -> None:
        self.window, self.bits, self.padding = window, bits, padding
        self.cache: KVCache = make_cache([window], kv_bits=bits, left_padding=padding)[0]
        empty = mx.zeros((len(padding), K, 0, D))
        self.keys, self.values = empty, empty
        self.seed = 0

    def read(self, n: int) -> None:
        """Feeds n tokens; what they see is compared."""
        self.seed += 3
        batch, first = len(self.padding), self.cache.offset
        q, k, v = (rows_of(self.seed + i, n, heads, batch) for i, heads in enumerate((2 * H, K, K)))
        self.keys = mx.concatenate([self.keys[:, :, :first], k], axis=2)
        self.values = mx.concatenate([self.values[:, :, :first], v], axis=2)
        mask = self.cache.make_mask(n)
        out = join_heads(attend(q, *self.cache.update_and_fetch(k, v), D**-0.5, mask))
        expected = attention(
            np.array(q, np.float64),
            numbers(quantize(self.keys, self.bits)[:3], self.bits),
            numbers(quantize(self.values, self.bits)[:3], self.bits),
            first,
            self.window,
            self.padding,
        )
        expected = expected.swapaxes(1, 2).reshape(out.shape)
        assert np.abs(np.array(out) - expected).max() < TOLERANCE


lengths = st.integers(1, 12) | st.integers(33, 40)


@settings(max_examples=35, deadline=None)
@given(
    chunks=st.lists(lengths, min_size=1, max_size=6),
    window=st.sampled_from(WINDOWS),
    bits=st.sampled_from([8, 4]),
    padding=st.sampled_from([(0,), (0, 0), (3, 0), (0, 9)]),
)
def test_any_cut_of_a_text_sees_what_numpy_sees_in_the_codes(
    chunks: list[int], window: int | None, bits: int, padding: tuple[int, ...]
) -> None:
    text = Text(window, bits, padding)
    for n in chunks:
        text.read(n)


@settings(max_examples=35, deadline=None)
@given(
    window=st.sampled_from(WINDOWS),
    bits=st.sampled_from([8, 4]),
    moves=st.lists(
        st.tuples(st.sampled_from(["read", "read", "trim", "keep", "back", "room"]), lengths),
        max_size=10,
    ),
)
def test_trims_snapshots_and_room_for_drafts_leave_the_text_right(
    window: int | None, bits: int, moves: list[tuple[str, int]]
) -> None:
    text, kept = Text(window, bits, (0,)), None
    text.read(4)
    for move, n in moves:
        if move == "read":
            text.read(n)
        elif move == "trim" and text.cache.can_trim(min(n, text.cache.offset)):
            text.cache.trim(n)
        elif move == "keep":
            kept = (text.cache.snapshot(), text.keys, text.values)
        elif move == "back" and kept and text.cache.can_restore(kept[0]):
            text.cache.restore(kept[0])
            text.keys, text.values = kept[1:]
        elif move == "room":
            text.cache.allow_trim(n % 5)
    text.read(3)
    text.read(1)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dim", [32, 64, 96, 128])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_a_number_is_within_a_step_of_what_it_was(bits: int, dim: int, dtype: mx.Dtype) -> None:
    """And what rounding the group's scale and bias to 16 bits can move it.

    Half a step, but for the far end of a group: zero has a code of its own, so steps are
    stretched or shrunk until it lies on one.
    """
    given_rows = rows_of(1, 50, dim=dim).astype(dtype) * mx.array([0.01, 30]).reshape(1, 2, 1, 1)
    given_rows = given_rows.astype(dtype)
    rows = quantize(given_rows, bits)
    assert rows.scales.dtype.size == 2
    group = 64 if dim % 64 == 0 else 32
    assert rows.scales.shape == (1, K, 50, dim // group)
    known = np.array(given_rows.astype(mx.float32), np.float64).reshape(1, K, 50, -1, group)
    error = np.abs(numbers(rows[:3], bits).reshape(known.shape) - known).max(axis=-1)
    step = (known.max(axis=-1) - known.min(axis=-1)) / (2**bits - 1)
    rounding = 2.0 ** (-8 if dtype == mx.bfloat16 else -11)
    largest = np.abs(known).max(axis=-1)
    assert (error <= 1.05 * step + 3 * rounding * largest + 2**-20).all()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize(("bits", "share"), [(8, 0.54), (4, 0.3)])
@pytest.mark.parametrize("window", [None, 256])
def test_bytes_are_at_most_a_share_of_those_of_bfloat16(
    dtype: mx.Dtype, bits: int, share: float, window: int | None
) -> None:
    rows = mx.zeros((1, 8, 700, 128), dtype)
    full, quantized = make_cache([window])[0], make_cache([window], kv_bits=bits)[0]
    full.update_and_fetch(rows.astype(mx.bfloat16), rows.astype(mx.bfloat16))
    quantized.update_and_fetch(rows, rows)
    assert quantized.capacity == full.capacity
    assert quantized.nbytes <= share * full.nbytes


@pytest.mark.parametrize("head_dim", [8, 24, 80])
def test_heads_that_no_group_divides_are_refused(head_dim: int) -> None:
    model = tiny_model(tiny_config(head_dim=head_dim, n_layers=1))
    with pytest.raises(CacheError, match=f"heads of {head_dim} .* leave kv_bits out"):
        model.make_cache(kv_bits=4)
    row = mx.zeros((1, 2, 1, head_dim))
    with pytest.raises(CacheError, match="leave kv_bits out"):
        GrowingCache(kv_bits=8).update_and_fetch(row, row)


@pytest.mark.parametrize("bits", [0, 1, 3, 16, -4])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(CacheError, match="ask for 8 or 4"):
        make_cache([None, 5], kv_bits=bits)


@pytest.mark.parametrize("window", [None, 512])
@pytest.mark.parametrize("held", [300, 512])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_decoded_token_copies_no_cache(window: int | None, held: int, bits: int) -> None:
    """Written in place and read from where it lies, with room left in the buffers or none."""
    cache = make_cache([window], kv_bits=bits)[0]
    many, one = (mx.ones((1, 8, n, 64), mx.bfloat16) for n in (held - 8, 1))
    cache.update_and_fetch(many, many)
    mx.eval(cache.state)
    assert cache.capacity == 512
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(8):
        mx.eval(attend(one, *cache.update_and_fetch(one, one), 0.1, cache.make_mask(1)))
    assert mx.get_peak_memory() - before < cache.nbytes / 4


def test_many_new_tokens_hold_one_dequantized_copy_in_place_of_scores() -> None:
    """Scores of 256 tokens over 4096 in 32 heads would be 134 MB."""
    n_new, past = 256, 4096
    cache = GrowingCache(kv_bits=4)
    many = mx.zeros((1, 2, past, 64))
    cache.update_and_fetch(many, many)
    mx.eval(cache.state)
    q, new = mx.zeros((1, 32, n_new, 64)), mx.zeros((1, 2, n_new, 64))
    seen, _ = cache.update_and_fetch(new, new)
    assert isinstance(seen, QuantizedRows)
    assert not reads_quantized(q, seen)
    assert reads_quantized(q[:, :, :1], seen)
    assert seen.dequantize(64, mx.float32).shape == (1, 2, past + n_new, 64)


_models: dict[str, Model] = {}


def model_of(family: str) -> Model:
    if family not in _models:
        sizes: dict[str, Any] = {**FAMILIES[family], "n_layers": 2, "head_dim": 32}
        if "_sliding_window" in sizes:
            sizes["_sliding_window"] = sizes["_sliding_window"][:2]
        _models[family] = tiny_model(tiny_config(**sizes))
    return _models[family]


def logits(model: Model, ids: list[int], chunks: list[int], bits: int | None) -> np.ndarray:
    cache, out, start = model.make_cache(kv_bits=bits), [], 0
    for n in chunks:
        out.append(model(mx.array([ids[start : start + n]]), cache)[0])
        start += n
    return np.array(mx.concatenate(out))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [8, 4])
def test_logits_do_not_depend_on_how_a_prompt_is_cut(family: str, bits: int) -> None:
    """A key that lies on the edge of two codes may fall to either, so means are compared."""
    model, ids = model_of(family), random_ids(60)
    whole = logits(model, ids, [60], bits)
    effect = np.abs(whole - logits(model, ids, [60], None)).mean()
    assert 0 < effect < (0.1 if bits == 8 else 1)
    for chunks in ([1] * 60, [3, 7, 50], [40, *[1] * 20], [20, 20, 20]):
        assert np.abs(logits(model, ids, chunks, bits) - whole).mean() < effect / 20


@settings(max_examples=30, deadline=None)
@given(
    chunks=st.lists(lengths, max_size=5),
    window=st.sampled_from(WINDOWS),
    bits=st.sampled_from([8, 4]),
    back=st.integers(0, 1),
    room=st.integers(0, 3),
)
def test_quantized_later_is_as_from_the_start(
    chunks: list[int], window: int | None, bits: int, back: int, room: int
) -> None:
    wide, narrow = make_cache([window])[0], make_cache([window], kv_bits=bits)[0]
    for one in (wide, narrow):
        for i, n in enumerate(chunks):
            one.update_and_fetch(rows_of(i, n), rows_of(i + 9, n))
        one.allow_trim(room)
        if one.can_trim(back):
            one.trim(back)
    later = wide.to_quantized(bits=bits)
    assert later.offset == narrow.offset
    assert [later.can_trim(n) for n in range(9)] == [narrow.can_trim(n) for n in range(9)]
    assert all(map(mx.array_equal, later.held(), narrow.held()))
    assert later.to_quantized(bits=bits) is later
    assert not later.can_restore(wide.snapshot()) or window is None
    if bits == 8:
        assert later.to_quantized(bits=4).offset == later.offset
        return
    with pytest.raises(CacheError, match="already"):
        later.to_quantized(bits=8)


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("n_tokens", [3, 9, 300])
def test_narrowing_keeps_what_the_wider_cache_says(window: int | None, n_tokens: int) -> None:
    one = make_cache([window], kv_bits=8)[0]
    one.update_and_fetch(rows_of(0, n_tokens), rows_of(1, n_tokens))
    narrow = one.to_quantized(bits=4)
    assert (narrow.kv_bits, narrow.offset) == (4, n_tokens)
    expected = make_cache([window], kv_bits=4)[0]
    expected.update_and_fetch(rows_of(0, n_tokens), rows_of(1, n_tokens))
    step = max(float(mx.abs(scales).max()) for scales in expected.state[1::3])
    for wide, kept in zip(dequantized_rows(one), dequantized_rows(narrow), strict=True):
        assert float(mx.abs(wide - kept).max()) <= 1.001 * step
    assert narrow.nbytes < 0.6 * one.nbytes or n_tokens < 256


def dequantized_rows(cache: KVCache) -> list[mx.array]:
    held = cache.held()
    return [
        QuantizedRows(*held[i : i + 3], held[i].shape[2]).dequantize(D, mx.float32) for i in (0, 3)
    ]


@pytest.mark.parametrize("window", [None, 6, 300])
@pytest.mark.parametrize("kv_bits", [None, 4])
def test_room_made_beforehand_changes_nothing(window: int | None, kv_bits: int | None) -> None:
    plain, roomy = (make_cache([window], kv_bits=kv_bits)[0] for _ in range(2))
    assert not roomy.reserve(5)
    for i, n in enumerate([3, 1, 4, 300, 1, 1]):
        roomy.reserve(n)
        assert not roomy.reserve(n)
        for one in (plain, roomy):
            one.update_and_fetch(rows_of(i, n), rows_of(i + 9, n))
        assert plain.nbytes == roomy.nbytes
        assert all(map(mx.array_equal, plain.held(), roomy.held()))


@pytest.mark.parametrize("window", [None, 6])
def test_mlx_lm_decodes_with_quantized_caches_of_either_making(window: int | None) -> None:
    from mlx_lm.generate import generate_step

    model = model_of("mistral-window" if window else "mistral")
    ids, drawn = random_ids(30), {}
    for bits, start in ((8, 0), (8, 35), (4, 0)):
        steps = generate_step(
            mx.array(ids), model, max_tokens=12, kv_bits=bits, quantized_kv_start=start
        )
        drawn[bits, start] = [int(token) for token, _ in steps]
    for bits in (8, 4):
        cache = model.make_cache(kv_bits=bits)
        steps = generate_step(mx.array(ids), model, max_tokens=12, prompt_cache=cache)
        theirs = [int(token) for token, _ in steps]
        assert theirs == greedy(model, ids, 12, bits)
        assert cache[0].kv_bits == bits
    assert all(len(tokens) == 12 for tokens in drawn.values())


def greedy(model: Model, ids: list[int], n: int, bits: int) -> list[int]:
    """The likeliest tokens, each from a pass over the whole text."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(logits(model, ids, [len(ids)], bits)[-1].argmax()))
    return ids[-n:]


def test_a_ring_of_other_bits_is_another_cache() -> None:
    with pytest.raises(CacheError, match="another cache"):
        RotatingCache(4).restore(RotatingCache(4, kv_bits=8).snapshot())
