"""How fast a model whose experts are read from disk will be, before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mistral.errors import MlxMistralError


def expected_hit_rate(slots: int, experts: int, *, shares: Sequence[float] | None = None) -> float:
    """Share of the chosen experts that will be in memory.

        hit rate = sum of the `slots` largest shares / sum of all shares

    slots: experts in memory, of all layers together; experts: all there are.
    shares: how often each of them is chosen, in any unit; by default all alike, where the hit
        rate is slots / experts. Real routers prefer some experts and repeat themselves from
        token to token, so that is the least to expect.
    Raises: MlxMistralError: a count or share is negative, or the shares are not `experts` many.
    """
    if slots < 0 or experts < 1:
        raise MlxMistralError(f"{slots} slots for {experts} experts make no hit rate")
    uses = [1.0] * experts if shares is None else sorted(shares, reverse=True)
    if len(uses) != experts or min(uses) < 0 or not sum(uses) > 0:
        raise MlxMistralError(f"{len(uses)} shares do not say how often {experts} are chosen")
    return sum(uses[:slots]) / sum(uses)


def expected_tps(
    *,
    resident_tps: float,
    hit_rate: float,
    chosen_per_token: int,
    expert_bytes: int,
    disk_bytes_per_second: float,
    hidden: float = 0.0,
) -> float:
    """Tokens a second of decoding one text.

        seconds a token = 1 / resident_tps + (1 - hidden) x reading
        reading         = chosen_per_token x (1 - hit_rate) x expert_bytes / disk speed

    resident_tps: the speed with all experts in memory; chosen_per_token: layers x top-k;
    hidden: share of the reading that goes on while something else computes. 0 is the least;
    reading ahead cannot hide more than what is computed meanwhile.
    Raises: MlxMistralError: a speed is not positive, or a share outside 0 to 1.
    """
    if not (resident_tps > 0 and disk_bytes_per_second > 0):
        raise MlxMistralError("the speeds of memory and disk must be positive")
    if not (0 <= hit_rate <= 1 and 0 <= hidden <= 1):
        raise MlxMistralError("a hit rate and what is hidden are shares, from 0 to 1")
    read_bytes = chosen_per_token * (1 - hit_rate) * expert_bytes
    return 1 / (1 / resident_tps + (1 - hidden) * read_bytes / disk_bytes_per_second)
