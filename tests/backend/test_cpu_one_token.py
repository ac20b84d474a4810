"""Overrides of the CPU backend for one token per sequence, against MLX's own operations."""

from __future__ import annotations

import mlx.core as mx
import pytest
from tiny import tiny_config

from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.cpu.rotation import MatrixRotation
from mlx_mistral.backend.ops import Backend, Rotation
from mlx_mistral.backend.select import use_backend
from mlx_mistral.model.rope import RotaryEmbedding

YARN = {"yarn": {"factor": 4, "original_max_position_embeddings": 64, "beta": 4, "alpha": 1}}


@pytest.mark.parametrize("extra", [{}, YARN], ids=["plain", "yarn"])
@pytest.mark.parametrize("position", [5, [0, 3, 31]])
def test_a_matrix_rotates_as_the_kernel_does(
    extra: dict[str, object], position: int | list[int]
) -> None:
    rope = RotaryEmbedding(tiny_config(head_dim=16, **extra))
    x = mx.random.normal((3, 4, 1, 16), key=mx.random.key(0))
    rotated = []
    for backend, kind in ((Backend(), Rotation), (CPUBackend(), MatrixRotation)):
        with use_backend(backend):
            rotation = rope(mx.array(position), n_new=1, dtype=mx.float32)
        assert type(rotation) is kind
        rotated.append(rotation(x))
    assert mx.abs(rotated[0] - rotated[1]).max().item() < 1e-5


def test_tokens_after_the_first_are_rotated_by_their_own_positions() -> None:
    rope = RotaryEmbedding(tiny_config(head_dim=16))
    x = mx.random.normal((2, 4, 5, 16), key=mx.random.key(0))
    for position in (mx.array(7), mx.array([7, 2])):
        rotation = rope(position, n_new=5, dtype=mx.float32)
        assert mx.allclose(rotation(x[:, :, 3:], 3), rotation(x)[:, :, 3:], atol=1e-5)


@pytest.mark.parametrize("n_heads", [2, 4, 6])
@pytest.mark.parametrize("is_masked", [False, True])
def test_one_query_per_head_equals_the_plain_operation(n_heads: int, is_masked: bool) -> None:
    keys = iter(mx.random.split(mx.random.key(n_heads), 4))
    q = mx.random.normal((3, n_heads, 1, 8), key=next(keys))
    k, v = (mx.random.normal((3, 2, 11, 8), key=next(keys)) for _ in range(2))
    mask = None
    if is_masked:
        mask = mx.random.bernoulli(0.6, (3, 1, 1, 11), key=next(keys)) | (mx.arange(11) == 4)
    plain, ours = (
        backend.attention(q, k, v, scale=0.3, mask=mask) for backend in (Backend(), CPUBackend())
    )
    assert ours.shape == plain.shape
    assert mx.abs(ours - plain).max().item() < 1e-6


@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 24), (2, 5, 24)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_row_is_normalized_as_many_are(shape: tuple[int, ...], dtype: mx.Dtype) -> None:
    weight = mx.random.normal((24,), key=mx.random.key(1)).astype(dtype)
    x = (0.1 * mx.random.normal(shape, key=mx.random.key(2))).astype(dtype)
    plain, ours = (backend.rms_norm(x, weight, 1e-3) for backend in (Backend(), CPUBackend()))
    assert (ours.shape, ours.dtype) == (plain.shape, plain.dtype)
    assert mx.abs(ours - plain).max().item() < 1e-6
