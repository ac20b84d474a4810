"""Tokens a second, of reading a prompt and of writing a reply."""

from __future__ import annotations

import time


class Clock:
    """Prefill ends with the first token; decoding is timed from there."""

    def __init__(self, prompt_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        self._start = time.perf_counter()
        self._first: float | None = None
        self._decoded = 0
        self.n = 0

    def tick(self, tokens: int = 1) -> None:
        self.n += tokens
        if self._first is None:
            self._first = time.perf_counter()
        else:
            self._decoded += tokens

    @property
    def prompt_tps(self) -> float:
        return self._prompt_tokens / max((self._first or 0.0) - self._start, 1e-9)

    @property
    def generation_tps(self) -> float:
        """Over the tokens after the first, which belongs to the prefill."""
        if self._first is None or not self._decoded:
            return 0.0
        return self._decoded / max(time.perf_counter() - self._first, 1e-9)
