"""The side panel: speed over time, the cache as it fills, the experts at work."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive

from mlx_mistral.live.events import (
    Event,
    Finished,
    Loaded,
    LoadFailed,
    ModelFacts,
    Progress,
    Routed,
)

from .chart import braille_bars
from .figures import bytes_text, percent_text, rate_text
from .heat_map import SHADES, ExpertCounts, cell_of, heat_map
from .ring import cache_lines
from .rows import Rows

_REMEMBERED = 400
"""Figures of a reply kept for the chart: more than any panel is wide."""


def speeds(progress: list[Progress]) -> list[float]:
    """Tokens a second between one figure and the next, from their averages since the start.

    An average of r over n tokens after the first took (n - 1) / r seconds; a reply's first figure,
    which may be its only one, counts as it is.
    """
    found = []
    for before, now in pairwise([None, *progress]):
        if now is None or not now.decode_tps or now.reply_tokens < 2:
            continue
        if before is None or before.id != now.id:
            found.append(now.decode_tps)
        elif now.reply_tokens > before.reply_tokens:
            seconds = _decode_seconds(now) - _decode_seconds(before)
            tokens = now.reply_tokens - max(before.reply_tokens, 1)
            found.append(tokens / seconds if seconds > 0 else now.decode_tps)
    return found


def _decode_seconds(progress: Progress) -> float:
    after_first = max(progress.reply_tokens - 1, 0)
    return after_first / progress.decode_tps if progress.decode_tps > 0 else 0.0


class Speed(Rows):
    """Tokens a second of the replies so far, the newest on the right."""

    DEFAULT_CSS = "Speed { height: 5; color: $primary; }"

    figures: reactive[tuple[Progress, ...]] = reactive((), repaint=False)

    def watch_figures(self) -> None:
        self.redraw()

    def picture(self) -> Content:
        width, height = self.content_size
        values = speeds(list(self.figures))
        if not values:
            return Content("tokens/s: none yet")
        title = f"{rate_text(values[-1])} tokens/s, at most {rate_text(max(values))}"
        return Content("\n".join([title[:width], *braille_bars(values, width, height - 1)]))


class CacheRing(Rows):
    """The slots of the cache: written, overwritten, free."""

    DEFAULT_CSS = "CacheRing { height: 1fr; min-height: 3; color: $secondary; }"

    held: reactive[tuple[Progress | None, ModelFacts | None]] = reactive(
        (None, None), repaint=False
    )

    def watch_held(self) -> None:
        self.redraw()

    def picture(self) -> Content:
        progress, facts = self.held
        width, height = self.content_size
        if facts is None:
            return Content("cache: no model")
        tokens = progress.cache_tokens if progress else 0
        n_bytes = bytes_text(progress.cache_bytes if progress else 0)
        lines = cache_lines(tokens, facts.windows, width, height - 1, context=facts.context)
        return Content("\n".join([f"cache {n_bytes}, {tokens:,} tokens"[:width], *lines]))


class ExpertMap(Rows, can_focus=True):
    """Experts down, layers across; with the focus, the count of the cell under the cursor."""

    DEFAULT_CSS = """
    ExpertMap { height: 2fr; min-height: 4; color: $warning; }
    ExpertMap:focus { text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "move(-1, 0)", "Layer before", show=False),
        Binding("right", "move(1, 0)", "Layer after", show=False),
        Binding("up", "move(0, -1)", "Expert before", show=False),
        Binding("down", "move(0, 1)", "Expert after", show=False),
    ]

    counts: reactive[ExpertCounts | None] = reactive(None, always_update=True, repaint=False)
    cell: reactive[tuple[int, int]] = reactive((0, 0))
    """Layer and expert under the cursor."""

    def action_move(self, layers: int, experts: int) -> None:
        if self.counts is not None:
            layer = min(max(self.cell[0] + layers, 0), self.counts.n_layers - 1)
            expert = min(max(self.cell[1] + experts, 0), self.counts.n_experts - 1)
            self.cell = (layer, expert)

    def watch_counts(self, old: ExpertCounts | None, new: ExpertCounts | None) -> None:
        if new is not None and (old is None or self._size_of(old) != self._size_of(new)):
            self.cell = (0, 0)
        self.redraw()

    def picture(self) -> Content:
        if self.counts is None or not self.counts.tokens:
            return Content("experts: no token yet")
        counts, (width, height) = self.counts, self.content_size
        lines = heat_map(counts.rows(), width, max(height - 2, 1))
        n_tokens = "1 token" if counts.tokens == 1 else f"{counts.tokens:,} tokens"
        title = Content(f"experts ↓ layers →, {n_tokens}"[:width])
        if not self.has_focus:
            legend = f"seldom {SHADES[1:]} often; focus for counts"
            return Content("\n").join([title, *map(Content, lines), Content(legend[:width])])
        layer, expert = self.cell
        x = cell_of(layer, counts.n_layers, width)
        y = cell_of(expert, counts.n_experts, len(lines))
        marked = Content(lines[y]).stylize("reverse", x, x + 1)
        rows = [marked if row == y else Content(line) for row, line in enumerate(lines)]
        times = counts.of(layer, expert)
        share = percent_text(times, counts.tokens)
        note = f"layer {layer + 1}, expert {expert + 1}: {times:,} ({share})"
        return Content("\n").join([title, *rows, Content(note[:width])])

    @staticmethod
    def _size_of(counts: ExpertCounts) -> tuple[int, int]:
        return counts.n_layers, counts.n_experts


class MachinePanel(Vertical):
    """Everything about the machine at work. Hidden until `opened`; then it follows `show`.

    While hidden it draws nothing and counts nothing: events only replace the last one. Whoever
    mounts it turns the engine's watch for experts on and off as `Opened` says.
    """

    DEFAULT_CSS = """
    MachinePanel { width: 38; height: 1fr; display: none; padding: 0 1;
                   border-left: solid $panel; }
    MachinePanel.opened { display: block; }
    MachinePanel ExpertMap { display: none; }
    MachinePanel.mixture ExpertMap { display: block; }
    """

    opened: reactive[bool] = reactive(False, toggle_class="opened")

    class Opened(Message):
        """The panel was shown or hidden; `experts`: whether each layer's choices are wanted."""

        def __init__(self, opened: bool, experts: bool) -> None:
            self.opened = opened
            self.experts = experts
            super().__init__()

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._facts: ModelFacts | None = None
        self._progress: Progress | None = None
        self._figures: deque[Progress] = deque(maxlen=_REMEMBERED)
        self._counts: ExpertCounts | None = None
        self._reply: int | None = None

    def compose(self) -> ComposeResult:
        yield Speed()
        yield CacheRing()
        yield ExpertMap()

    def toggle(self) -> None:
        self.opened = not self.opened

    def show(self, event: Event) -> None:
        """Takes note of any event of the engine."""
        match event:
            case Routed():
                if self.opened:
                    self._count(event)
            case Progress():
                self._progress = event
                self._draw_progress()
            case Finished():
                self._progress = event.progress
                self._draw_progress()
            case Loaded():
                self._meet(event.facts)
            case LoadFailed():
                self._meet(None)

    def watch_opened(self, opened: bool) -> None:
        if opened:
            self._draw_progress()
        self._tell()

    @property
    def _is_mixture(self) -> bool:
        return self._facts is not None and self._facts.n_experts > 0

    def _tell(self) -> None:
        if self.is_mounted:
            self.call_later(self._post)  # what another widget has it post ends at that widget

    def _post(self) -> None:
        self.post_message(self.Opened(self.opened, self.opened and self._is_mixture))

    def _meet(self, facts: ModelFacts | None) -> None:
        self._facts, self._progress = facts, None
        self._counts, self._reply = None, None
        self._figures.clear()
        self.set_class(self._is_mixture, "mixture")
        self._draw_progress()
        if self.opened:
            self._tell()

    def _count(self, routed: Routed) -> None:
        if self._facts is None:
            return
        if self._counts is None or self._reply != routed.id:
            self._counts = ExpertCounts(self._facts.n_layers, self._facts.n_experts)
            self._reply = routed.id
        self._counts.add(routed.tokens, routed.counts)

    def _draw_progress(self) -> None:
        if not (self.opened and self.is_mounted):
            return
        if self._progress is not None:
            self._figures.append(self._progress)
        self.query_one(Speed).figures = tuple(self._figures)
        self.query_one(CacheRing).held = (self._progress, self._facts)
        self.query_one(ExpertMap).counts = self._counts
