"""From the divergences of a few probes, and the errors of all formats, to all damages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mlx_mistral.config import QuantParams

from .formats import Format

SMALLEST = 1e-12
"""Nats; what rounding leaves of a divergence too small to see, whatever its sign."""

Errors = Mapping[QuantParams, float]
"""A matrix's output error in each format."""


def damages_from(
    uses: Sequence[Errors], divergences: Mapping[QuantParams, float]
) -> dict[Format, float]:
    """The damage of every format whose error is known, and 0 for 16 bits.

    A table that is both embeddings and head has two uses, whose errors count alike. Between
    two probes the damage follows a power of the error, beyond them it grows in proportion.
    """
    if not divergences:
        return {None: 0.0}
    reference = next(iter(divergences))
    relative = {one: _relative(uses, one, reference) for one in uses[0]}
    points = sorted((relative[probe], max(kl, SMALLEST)) for probe, kl in divergences.items())
    damages: dict[Format, float] = {one: _at(error, points) for one, error in relative.items()}
    return damages | {None: 0.0}


def _relative(uses: Sequence[Errors], one: QuantParams, reference: QuantParams) -> float:
    """Error in terms of the reference's; 0 where the text never uses the matrix."""
    ratios = [errors[one] / errors[reference] for errors in uses if errors[reference] > 0]
    return sum(ratios) / len(ratios) if ratios else 0.0


def _at(error: float, points: Sequence[tuple[float, float]]) -> float:
    """Shapes: (error, damage) of each probe, ascending."""
    if error <= 0:
        return 0.0
    lower = [point for point in points if point[0] <= error]
    upper = [point for point in points if point[0] > error]
    if not lower or not upper or lower[-1][0] <= 0:
        nearest = (lower or upper)[-1 if lower else 0]
        return nearest[1] * error / nearest[0] if nearest[0] > 0 else nearest[1]
    (e0, d0), (e1, d1) = lower[-1], upper[0]
    power = max(math.log(d1 / d0), 0.0) / math.log(e1 / e0)
    return d0 * math.exp(power * math.log(error / e0))
