"""Drafts taken from the text itself: what followed the last time that it went like this."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from mlx_mistral.generation.sampling import Sampler

SHORTEST = 4
"""Tokens that have to agree before what followed them is worth a guess."""
LONGEST = 16
"""Agreement is counted up to here."""
CANDIDATES = 4
"""Latest places that are compared."""
STRAY = 3
"""Tokens in a row that may differ from the source before it is given up."""


class NgramDrafter:
    """Looks the last tokens up in the text so far. Costs some dictionary work a token.

    Source: prompt lookup decoding; arXiv:2304.04487 (LLMA) for drafts copied from a reference.
    """

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._ids: list[int] = []
        self._places: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        """For each few tokens in a row, the places behind them, oldest first."""
        self._source: int | None = None
        """The place in the text that the next token may be a copy of."""
        self._copied = 0
        self._strayed = 0
        self.extend(ids)

    def extend(self, tokens: Sequence[int]) -> None:
        """Tells what the text goes on with."""
        for token in tokens:
            self._follow(token)
            self._ids.append(token)
            if len(self._ids) >= SHORTEST:
                self._places[self._last()].append(len(self._ids))

    def match(self) -> int | None:
        """How many tokens agree with the place that a draft would be copied from; None: no place.

        0 where the text has left a source that it had copied many tokens of, and may come back.
        """
        place, match = self._longest_agreement()
        if place is not None:
            if place != self._source:
                self._source, self._copied = place, match
            self._strayed = 0
            return match
        return 0 if self._source is not None and self._copied >= LONGEST else None

    def guess(self) -> int | None:
        """What follows the place that `match` found; None: nothing."""
        return None if self._source is None else self._ids[self._source]

    def propose(self, n: int, sampler: Sampler | None = None) -> list[int]:
        """What follows the place that `match` found."""
        return [] if self._source is None else self._copy(self._source, n)

    def _longest_agreement(self) -> tuple[int | None, int]:
        """The place behind the longest one, the latest where several are as long."""
        if len(self._ids) < SHORTEST:
            return None, 0
        best, length = None, SHORTEST - 1
        if self._source is not None and not self._strayed:
            length = self._agreement(self._source)
            if length == LONGEST:
                return self._source, length
            best, length = (self._source, length) if length >= SHORTEST else (None, SHORTEST - 1)
        places = self._places[self._last()]
        for place in places[-2 : -CANDIDATES - 2 : -1]:  # the last is the end of the text itself
            agreed = self._agreement(place)
            if agreed > length:
                best, length = place, agreed
        return best, length

    def _agreement(self, place: int) -> int:
        ids, end = self._ids, len(self._ids)
        longest = min(LONGEST, place)
        if ids[place - longest : place] == ids[end - longest :]:
            return longest
        agreed = 0
        while ids[place - 1 - agreed] == ids[end - 1 - agreed]:
            agreed += 1
        return agreed

    def _copy(self, place: int, n: int) -> list[int]:
        """What follows a place; behind the end of the text, what the copy itself has written."""
        period = len(self._ids) - place
        return [self._ids[place + i % period] for i in range(n)]

    def _follow(self, token: int) -> None:
        """Moves along the source, past a few tokens that differ as well."""
        if self._source is None:
            return
        if self._ids[self._source] == token:
            self._copied, self._strayed = self._copied + 1, 0
        else:
            self._strayed += 1
        self._source += 1
        if self._strayed > STRAY:
            self._source = None

    def _last(self) -> tuple[int, ...]:
        return tuple(self._ids[-SHORTEST:])
