"""When a decoding step may be submitted while the one before it still runs.

A cache is written in place only if no unfinished command reads its buffer. With two steps in
flight, the first step's commands may still hold the buffers when the second step is encoded, and
MLX then copies the whole cache before the write. Two cases avoid that:

- The step is so large that MLX waits by itself for the commands that hold a layer's buffers,
  before it encodes that layer again.
- The caches are so small that copying them takes less time than a wait for the host.

Source: mlx 0.32.2 (commit 846d176), under mlx/.
- transforms.cpp:25 and :271: MLX encodes on while at most MAX_ACTIVE_TASKS = 10 committed command
  buffers are outstanding, then waits for one.
- backend/metal/device.cpp:349, :513 and :605 to :626: a command buffer is committed after the
  operation with which its operands pass 40 or 50 Mi elements (the limit is called megabytes, and
  counts elements), or its operations 40 or 50. Each operand counts once in a command buffer.
- backend/metal/eval.cpp, eval and finalize: a command buffer holds its operands until it completes;
  the last one of a step is committed without being counted.
- array.h:294, is_donatable: a buffer that anything else holds is not written in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MI = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """The limits of a device, and what follows from them.

    Example:
        layer = [25 * MI, 2 * MI, 17 * MI, 118 * MI, 59 * MI]  # of Mistral 7B in bfloat16
        METAL.can_overlap(32 * layer, cache_bytes=1 << 30)  # True
    """

    max_active_tasks: int
    """Command buffers that may be outstanding while MLX encodes on."""
    max_buffer_elements: int
    """Elements of operands with which a command buffer is surely committed."""
    max_copied_bytes: int
    """Caches of all layers that may be copied each step."""

    @property
    def min_commits(self) -> int:
        """Command buffers of a step from which a layer's buffers are free when it comes again.

        All that may be outstanding, the last one of the step before, which MLX does not count, and
        the one that holds the layer.
        """
        return self.max_active_tasks + 2

    def commits(self, operations: Iterable[int]) -> int:
        """Return how many command buffers a step commits at least.

        Args:
            operations: elements of the operands of each operation, in order. Operands that are left
                out can only mean more command buffers.
        """
        count = elements = 0
        for operands in operations:
            elements += operands
            if elements > self.max_buffer_elements:
                count, elements = count + 1, 0
        return count

    def can_overlap(self, operations: Iterable[int], *, cache_bytes: int) -> bool:
        """Return whether a step may be submitted before the one before it is done."""
        return cache_bytes <= self.max_copied_bytes or self.commits(operations) >= self.min_commits


def metal_limits(environment: Mapping[str, str] = os.environ) -> PipelineLimits:
    """Return the limits of Metal. MLX reads `MLX_MAX_MB_PER_BUFFER` too.

    CUDA is assumed to be alike; its source has not been read for this.
    """
    stated = environment.get("MLX_MAX_MB_PER_BUFFER", "")
    mega = int(stated) if stated.isdecimal() and len(stated) < 10 else 50
    return PipelineLimits(
        max_active_tasks=10, max_buffer_elements=(mega + 1) * MI - 1, max_copied_bytes=4 * MI
    )


METAL = metal_limits()
"""max_copied_bytes: 8 MB of traffic, 0.12 ms at the 68 GB/s of an M1, which is less than the host
needs to build a step."""
