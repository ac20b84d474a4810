"""The cache as it fills: a ring for every window, a line for layers that see all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

FREE, OLD, NEW, HEAD = "·", "▒", "█", "◆"
"""A slot never written; of the turn before; of this turn; the newest token's."""


def cache_lines(
    tokens: int,
    windows: Sequence[int | None],
    width: int,
    height: int,
    *,
    context: int | None = None,
) -> list[str]:
    """At most `height` lines of at most `width` cells: one picture for each kind of layer.

    tokens: of the conversation so far, however many a window still holds.
    windows: for each layer how many tokens it sees; None: all.
    context: how many the cache may hold, for the layers that see all.

    In a ring of W slots token t lies in slot t mod W, so after 6 tokens a window of 4 holds

        slot     0  1  2  3
        token    4  5  2  3

    and the picture shows slots 0 and 1 as this turn's, with the head on 1, and 2 and 3 as the
    turn's before.
    """
    kinds = sorted(Counter(windows).items(), key=lambda kind: (kind[0] is None, kind[0] or 0))
    if not kinds or width < 1 or height < 1:
        return []
    kinds = kinds[:height]
    lines: list[str] = []
    n_rings = sum(window is not None for window, _ in kinds)
    n_tall = 2 * (len(kinds) - n_rings)
    ring_height = (height - n_tall) // n_rings if n_rings else 0
    for window, layers in kinds:
        if window is None:
            picture = _line(tokens, context, layers, width)
        else:
            picture = _ring(tokens, window, layers, width, min(ring_height, 7))
        lines += picture
    return [line[:width] for line in lines[:height]]


def ring_cells(tokens: int, window: int, n_cells: int) -> str:
    """The ring unrolled: cell i stands for the slots from i * window / n_cells on."""
    if not tokens:
        return FREE * n_cells
    newest = (tokens - 1) % window
    head = newest * n_cells // window if window >= n_cells else -(-newest * n_cells // window)
    wrapped = tokens > window
    cells = []
    for cell in range(n_cells):
        slot = cell * window // n_cells
        if cell == head:
            cells.append(HEAD)
        elif slot <= newest:
            cells.append(NEW)
        else:
            cells.append(OLD if wrapped else FREE)
    return "".join(cells)


def _line(tokens: int, context: int | None, layers: int, width: int) -> list[str]:
    """A bar that fills up and never wraps."""
    title = f"{_layers(layers)}, all tokens"
    if not context:
        return [title, f"{tokens:,} held"]
    filled = min(width, -(-tokens * width // context)) if tokens else 0
    bar = NEW * max(filled - 1, 0) + (HEAD if filled else "") + FREE * (width - filled)
    return [f"{_layers(layers)}, all: {tokens:,} of {context:,}", bar]


def _ring(tokens: int, window: int, layers: int, width: int, height: int) -> list[str]:
    title = f"{_layers(layers)}: window {window:,}"
    held = f"{min(tokens, window):,} held"
    turns = (tokens - 1) // window if tokens else 0
    wraps = f"wrapped {turns:,}×" if turns else "not wrapped"
    if height < 4 or width < 16:
        bar = ring_cells(tokens, window, width)
        return [bar] if height < 2 else [f"{title}, {held}, {wraps}", bar]
    inside = height - 2
    cells = ring_cells(tokens, window, 2 * width + 2 * inside)
    top, right = cells[:width], cells[width : width + inside]
    bottom = cells[width + inside : 2 * width + inside][::-1]
    left = cells[2 * width + inside :][::-1]
    words = _centred([title, held, wraps], inside, width - 2)
    sides = [f"{left[row]}{words[row]}{right[row]}" for row in range(inside)]
    return [top, *sides, bottom]


def _centred(words: list[str], height: int, width: int) -> list[str]:
    if height < len(words):
        words = [words[0], ", ".join(words[1:])] if height == 2 else [", ".join(words)]
    above = (height - len(words)) // 2
    rows = [""] * above + words + [""] * (height - above - len(words))
    return [row[:width].center(width) for row in rows]


def _layers(n: int) -> str:
    return f"{n} layer" if n == 1 else f"{n} layers"
