"""When steps may overlap on Metal, as arithmetic over MLX's limits."""

from __future__ import annotations

import pytest

from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.pipelining import METAL, MI, PipelineLimits

B_4BIT = 1 / 8 + 2 / 64  # elements per weight: packed words, scales and biases
MISTRAL_7B = round(7.24e9 * B_4BIT)
MINISTRAL_3B = round(3.4e9 * B_4BIT)


@pytest.mark.parametrize(
    ("n_elements", "cache_bytes", "expected"),
    [
        (MISTRAL_7B, 4 << 30, True),
        (MINISTRAL_3B, 64 * MI, False),
        (MINISTRAL_3B, 2 * MI, True),
        (3_400_000_000, 64 * MI, True),  # the same model in bfloat16
        (25 * MI, 64 * MI, False),
        (25 * MI, 4 * MI, True),
        (25 * MI, 4 * MI + 1, False),
    ],
)
def test_steps_wait_for_each_other_where_mlx_would_copy_large_caches(
    n_elements: int, cache_bytes: int, expected: bool
) -> None:
    overlaps = METAL.can_overlap(n_elements=n_elements, largest=15 * MI, cache_bytes=cache_bytes)
    assert overlaps is expected


def test_a_step_must_fill_all_outstanding_command_buffers_and_two_more() -> None:
    limits = PipelineLimits(max_active_tasks=2, max_buffer_elements=10, max_copied_bytes=0)
    assert limits.min_step_elements(largest=5) == 4 * 15
    assert limits.can_overlap(n_elements=60, largest=5, cache_bytes=1)
    assert not limits.can_overlap(n_elements=59, largest=5, cache_bytes=1)


def test_the_cpu_device_always_overlaps_and_plain_operations_follow_metal() -> None:
    assert CPUBackend().pipelining is None
    assert Backend().pipelining is METAL
