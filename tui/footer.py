"""The last line: the keys of what has the focus."""

from __future__ import annotations

from textual.binding import Binding
from textual.content import Content
from textual.events import Click
from textual.reactive import reactive
from textual.screen import Screen
from textual.widget import Widget


class KeyLine(Widget):
    """Names keys in one line, which is drawn when another one has the focus."""

    DEFAULT_CSS = "KeyLine { dock: bottom; height: 1; background: $footer-background; }"

    keys: reactive[tuple[tuple[str, str, str], ...]] = reactive(())
    """Each key, as it is shown and what it does."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._look)
        self._look(self.screen)

    def on_unmount(self) -> None:
        self.screen.bindings_updated_signal.unsubscribe(self)

    def render(self) -> Content:
        parts: list[Content] = []
        room = self.content_size.width
        for _, shown, does in self.keys:
            part = Content.assemble((f" {shown}", "$footer-key-foreground bold"), f" {does} ")
            if part.cell_length > room:
                break
            parts.append(part)
            room -= part.cell_length
        return Content("").join(parts)

    def on_click(self, event: Click) -> None:
        end = 0
        for key, shown, does in self.keys:
            end += Content(f" {shown} {does} ").cell_length
            if event.x < end:
                self.app.simulate_key(key)
                return

    def _look(self, screen: Screen[object]) -> None:
        """Actions, each with its first key; the same ones cost no drawing."""
        found: dict[str, Binding] = {}
        for _, binding, enabled, _ in screen.active_bindings.values():
            if binding.show and enabled:
                found.setdefault(binding.action, binding)
        self.keys = tuple(
            (binding.key, self.app.get_key_display(binding), binding.description)
            for binding in found.values()
        )
