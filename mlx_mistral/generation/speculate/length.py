"""How many tokens to draft: as many as pay, by what drafts and passes have done so far.

A pass that checks k drafted tokens costs more than one that makes a single token, by how much
depends on the device. Both the costs and how often drafts hold are learned from the text under
way, and a debt that bad drafts have run up stops them before it can be felt.
"""

from __future__ import annotations

from dataclasses import dataclass

LENGTHS = (1, 2, 4, 8, 16)
"""Tokens that a draft may have: few shapes, so that few are traced."""
ALLOWED_LOSS = 0.015
"""Share of the decoding time that drafts may have cost on balance."""
ALLOWED_PASSES = 3.0
"""Plain passes that they may have cost besides, so that a short text can begin to draft."""
FIRST_SLOPE = 0.1
"""What each drafted token is taken to add to a pass, in plain passes, before one was timed."""
FORGET = 0.7
"""What a draft's outcome still counts for after the next one of its kind."""
CREDIT = 8.0
"""Plain passes that earlier drafts may have saved, to be lost again by later ones."""
SMOOTH = 0.2
OUTLIER = 4.0
"""A pass that took so many times as long as usual was held up by something else."""


@dataclass(slots=True)
class Outcomes:
    """How often a drafted token was right, given that those before it were."""

    right: float = 1.0
    wrong: float = 1.0

    @property
    def share(self) -> float:
        return self.right / (self.right + self.wrong)

    def add(self, drafted: int, accepted: int) -> None:
        self.right = FORGET * self.right + accepted
        self.wrong = FORGET * self.wrong + (accepted < drafted)


class DraftLength:
    """Chooses draft lengths, and is told what came of them."""

    def __init__(self, longest: int = LENGTHS[-1]) -> None:
        self._lengths = tuple(n for n in LENGTHS if n <= longest)
        self._outcomes: dict[int, Outcomes] = {}
        self._plain: float | None = None
        self._cost: dict[int, float] = {}
        """Seconds of a pass that checks so many drafted tokens, in plain passes."""
        self._seconds = 0.0
        self._lost = 0.0

    def choose(self, match: int) -> int:
        """Tokens to draft where so many before them agree with their source; 0: none."""
        if self._plain is None or not self._lengths:
            return 0
        share = self._kind(match).share
        room = ALLOWED_LOSS * self._seconds + ALLOWED_PASSES * self._plain - self._lost
        lengths = [n for n in self._lengths if self._at_risk(n, share) <= room]
        best = max(lengths, key=lambda n: expected_tokens(n, share) / self.cost(n), default=0)
        return best if best and expected_tokens(best, share) > self.cost(best) else 0

    def _at_risk(self, n: int, share: float) -> float:
        """Seconds that a draft may cost, by how likely it is to fail at its first token."""
        return (1 - share) * (self.cost(n) - 1) * (self._plain or 0.0)

    def decoded(self, seconds: float) -> None:
        """A token was made without a draft."""
        if self._plain is None:
            self._plain = seconds
        elif seconds < OUTLIER * self._plain:
            self._plain += SMOOTH * (seconds - self._plain)
        self._seconds += seconds

    def checked(
        self, match: int, drafted: int, accepted: int, seconds: float, *, is_usual: bool = True
    ) -> None:
        """A draft was checked, in a pass that made one token more than it accepted.

        is_usual: whether later passes of its kind take as long.
        """
        self._kind(match).add(drafted, accepted)
        self._seconds += seconds
        if not self._plain:
            return
        cost, known = seconds / self._plain, self.cost(drafted)
        if is_usual and cost < OUTLIER * known:
            first = drafted not in self._cost
            self._cost[drafted] = cost if first else known + SMOOTH * (cost - known)
        lost = self._lost + seconds - (accepted + 1) * self._plain
        self._lost = max(lost, -CREDIT * self._plain)

    def cost(self, n: int) -> float:
        """Of checking n drafted tokens, in plain passes; between those timed, on a line."""
        if n in self._cost:
            return self._cost[n]
        below = max((k for k in self._cost if k < n), default=0)
        above = min((k for k in self._cost if k > n), default=None)
        low = self._cost.get(below, 1.0)
        if above is None:
            slope = (low - 1.0) / below if below else FIRST_SLOPE
            return low + max(slope, 0.0) * (n - below)
        return low + (self._cost[above] - low) * (n - below) / (above - below)

    def _kind(self, match: int) -> Outcomes:
        """Counted apart: drafts after long agreements hold more often, and are expected to."""
        return self._outcomes.setdefault(match.bit_length(), Outcomes(right=max(1.0, match / 2)))


def expected_tokens(n: int, share: float) -> float:
    """Of a pass that checks n drafted tokens, each right with this share after the last."""
    return float(n + 1) if share >= 1 else (1 - share ** (n + 1)) / (1 - share)
