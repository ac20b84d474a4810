"""How many tokens to draft: as many as pay, by what drafts and passes have done so far.

A pass that checks k drafted tokens costs more than one that makes a single token; by how much
depends on the device. Both the costs and how often guesses hold are learned from the text under
way; a guess that is not drafted is compared with the text as well, which costs nothing. What
drafts cost on balance stays below a small share of the time, so that a text with nothing to copy
is made as fast as without them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median, median_low

from .ngram import SHORTEST

LENGTHS = (3, 7, 15)
"""Tokens that a draft may have: few, since each length is a trace. With the token before them
they fill the widths that kernels come in."""
ALLOWED_LOSS = 0.015
"""Share of the decoding time that drafts may have cost on balance."""
ALLOWED_PASSES = 0.5
"""Plain passes that they may have cost besides, so that a short text can begin to draft."""
FIRST_SLOPE = 0.1
"""What each drafted token is taken to add to a pass before one was timed."""
WORST_SLOPE = 0.3
"""What it may add as well, for all that is known then."""
FIRST_SETUP = 1.0
"""What the first draft of a length, and the first token after drafts, are taken to cost besides:
nothing runs meanwhile, and buffers or passes are made anew."""
FORGET = 0.9
"""What a guess counts for after the next one of its kind."""
CREDIT = 8.0
"""Plain passes that earlier drafts may have saved, to be lost again by later ones."""
SURPRISE = 3.0
"""Up to so many times what was expected, a time is believed; more was held up by something else,
or comes again."""
RECENT = 7
"""Passes of a kind of which the median is taken: one that was held up does not show."""
STALE_AFTER = 256
"""Tokens in a row without a draft after which what drafts cost is to be learned anew."""


@dataclass(slots=True)
class Outcomes:
    """How often a guessed token was right, given that those before it were."""

    right: float
    wrong: float = 1.0

    @property
    def share(self) -> float:
        return self.right / (self.right + self.wrong)

    def add(self, right: int, *, failed: bool) -> None:
        for was_right in [True] * right + [False] * failed:
            self.right = FORGET * self.right + was_right
            self.wrong = FORGET * self.wrong + (not was_right)


class DraftLength:
    """Chooses draft lengths, and is told what came of them. Costs are in plain passes."""

    def __init__(
        self, lengths: tuple[int, ...] = LENGTHS, *, seconds_per_drafted: float = 0.0
    ) -> None:
        """seconds_per_drafted: what the drafter takes to write a token."""
        self._lengths, self._seconds_per_drafted = lengths, seconds_per_drafted
        self._outcomes: dict[int, Outcomes] = {}
        self._plain: deque[float] = deque(maxlen=RECENT)
        """Seconds of the last passes that made a token while the next one was built."""
        self._checks: dict[int, deque[float]] = {}
        """Seconds of the last passes that checked so many drafted tokens."""
        self._return_cost = FIRST_SETUP
        self._tried: set[int] = set()
        self._is_alone = False
        self._gap = 0.0
        """What tokens around drafts have cost more than others."""
        self._since_draft = 0
        self._took = self._lost = 0.0

    def choose(self, match: int) -> int:
        """Tokens to draft after so many that agree with their source; 0: none."""
        if len(self._plain) < 2:
            return 0
        share = self._kind(match).share
        room = ALLOWED_LOSS * self._took + ALLOWED_PASSES - self._lost
        best, most = 0, 1.0
        for n in self._lengths:
            cost = self.cost(n) + (1 - share**n) * self._return_cost
            unknown = 0.0 if n in self._tried else FIRST_SETUP + n * self._doubt
            rate = expected_tokens(n, share) / cost
            if rate > most and (1 - share) * (cost + unknown - 1) <= room:
                best, most = n, rate
        return best

    def watched(self, match: int, *, was_right: bool) -> None:
        """A token came that had been guessed, but not drafted."""
        self._kind(match).add(int(was_right), failed=not was_right)

    def decoded(self, seconds: float, *, is_followed: bool = True) -> None:
        """A token was made without a draft.

        is_followed: whether the next pass was under way when it was read. Where that was kept
            back for a draft, the token comes sooner, and the first one after drafts later.
        """
        is_steady = is_followed and not self._is_alone
        if is_steady or not self._plain:
            self._plain.append(seconds)
        cost = min(seconds / self._pass, SURPRISE)
        self._took += cost
        if not is_steady:
            self._lose(cost - 1)
            self._gap += cost - 1
        if is_followed and self._is_alone:
            self._return_cost, self._gap = max(0.0, self._gap), 0.0
        self._is_alone = not is_followed
        self._since_draft += 1
        if self._since_draft == STALE_AFTER:
            self._checks.clear()
            self._return_cost = FIRST_SETUP

    def checked(
        self, match: int, drafted: int, accepted: int, seconds: float, *, is_usual: bool = True
    ) -> None:
        """A draft was checked, in a pass that made one token more than it accepted.

        is_usual: whether later passes of its kind take as long.
        """
        self._kind(match).add(accepted, failed=accepted < drafted)
        self._since_draft, self._is_alone = 0, True
        if not self._plain:
            return
        cost = min(seconds / self._pass, SURPRISE * (self.cost(drafted) + (not is_usual)))
        self._took += cost
        self._lose(cost - accepted - 1)
        self._tried.add(drafted)
        if is_usual:
            believed = cost * self._pass
            self._checks.setdefault(drafted, deque(maxlen=RECENT)).append(believed)

    def cost(self, n: int) -> float:
        """Of checking n drafted tokens; on a line between those that were timed."""
        known = {k: median(one) / self._pass for k, one in self._checks.items()}
        if n in known:
            return known[n]
        known[0] = 1.0
        below = max(k for k in known if k < n)
        above = min((k for k in known if k > n), default=None)
        if above is not None:
            slope = (known[above] - known[below]) / (above - below)
        else:
            slope = max(0.0, (known[below] - 1) / below) if below else self._first_slope
        return known[below] + slope * (n - below)

    @property
    def _doubt(self) -> float:
        """What a drafted token may add to a pass beyond its expected cost."""
        return 0.0 if self._checks else WORST_SLOPE

    @property
    def _first_slope(self) -> float:
        return FIRST_SLOPE + self._seconds_per_drafted / self._pass

    @property
    def _pass(self) -> float:
        """Seconds of a plain pass."""
        return median_low(self._plain) or 1e-9

    def _lose(self, passes: float) -> None:
        self._lost = max(self._lost + passes, -CREDIT)

    def _kind(self, match: int) -> Outcomes:
        """Counted apart: drafts after long agreements hold more often.

        The first share is that of the rule of succession, where the shortest agreements that are
        looked for say nothing yet.
        """
        first = Outcomes(right=max(1.0, match - SHORTEST + 1.0))
        return self._outcomes.setdefault(match.bit_length(), first)


def expected_tokens(n: int, share: float) -> float:
    """Of a pass that checks n drafted tokens, each right with this share after the last."""
    return float(n + 1) if share >= 1 else (1 - share ** (n + 1)) / (1 - share)
