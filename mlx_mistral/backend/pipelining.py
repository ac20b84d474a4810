"""When a decoding step may be submitted while the one before it still runs.

A cache is written in place only if no unfinished command reads its buffer. With two steps in
flight, the first step's commands may still hold the buffers when the second step is encoded, and
MLX then copies the whole cache before the write (mlx, metal/eval.cpp: a command buffer holds its
operands until it completes; array.h, is_donatable). Two cases avoid that:

- The step is so large that MLX waits by itself. It encodes on only while at most 10 command
  buffers are outstanding (mlx, transforms.cpp, MAX_ACTIVE_TASKS), and commits one when the elements
  of its operands pass 50 Mi (metal/device.cpp, needs_commit and set_input_array: the limit is
  called megabytes and counts elements). With 12 command buffers in a step, a layer's buffers are
  free before that layer comes again.
- The caches are so small that copying them takes less time than a wait for the host.
"""

from __future__ import annotations

from dataclasses import dataclass

MI = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLimits:
    """The limits of a device, and what follows from them.

    Example:
        METAL.can_overlap(n_elements=1 << 30, largest=14 << 20, cache_bytes=1 << 30)  # True
    """

    max_active_tasks: int
    """Command buffers that may be outstanding while MLX encodes on."""
    max_buffer_elements: int
    """Elements of operands after which a command buffer is committed."""
    max_copied_bytes: int
    """Caches of all layers that may be copied each step."""

    def min_step_elements(self, largest: int) -> int:
        """Return the elements of a step from which MLX waits for the step before by itself.

        The outstanding command buffers, the last one of the step before, which MLX does not count,
        and the one that is being encoded; each may pass the limit by its last operand.
        """
        return (self.max_active_tasks + 2) * (self.max_buffer_elements + largest)

    def can_overlap(self, *, n_elements: int, largest: int, cache_bytes: int) -> bool:
        """Return whether a step may be submitted before the one before it is done.

        Args:
            n_elements: of the weights and caches that the step reads.
            largest: elements of the largest weight.
            cache_bytes: of all layers.
        """
        return cache_bytes <= self.max_copied_bytes or n_elements >= self.min_step_elements(largest)


METAL = PipelineLimits(max_active_tasks=10, max_buffer_elements=51 * MI, max_copied_bytes=4 * MI)
"""max_buffer_elements: 50 Mi on Max and Ultra, 40 Mi on others, passed by less than 1 Mi before it
counts. max_copied_bytes: 8 MB of traffic, 0.12 ms at the 68 GB/s of an M1, which is less than the
host needs to build a step."""
