"""The settings of replies and of the screen, as a form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Label, Static, TextArea

from mlx_mistral.live.commands import Settings

from .settings_form import FIELDS, Chosen, as_text, chosen, wrong

_LABELS = {
    "temperature": ("Temperature", "0 is greedy"),
    "top_p": ("Top-p", "above 0, at most 1"),
    "max_tokens": ("Max tokens", "of a reply"),
    "seed": ("Seed", "empty: another each time"),
    "cache_bits": ("Cache bits", "16 (as computed), 8 or 4"),
    "theme": ("Theme", "a name; Right completes it"),
    "system": ("System prompt", ""),
}
_KEYS = "Enter keeps · Tab next · F6 keeps as defaults · Esc leaves all as it was"


class SettingsForm(ModalScreen[Chosen | None]):
    """Ends with the new settings and theme, or None. What is wrong is said as it is typed."""

    DEFAULT_CSS = """
    SettingsForm { align: center middle; }
    SettingsForm > VerticalScroll { width: 1fr; max-width: 90; height: auto; max-height: 100%;
                                    margin: 1 2; padding: 0 1;
                                    background: $surface; border: round $primary; }
    SettingsForm Horizontal { height: 1; }
    SettingsForm Label { width: 16; }
    SettingsForm Input { width: 24; height: 1; }
    SettingsForm .hint { width: 1fr; margin-left: 2; color: $text-muted; }
    SettingsForm .wrong .hint { color: $text-error; text-style: bold; }
    SettingsForm TextArea { height: 5; border: none; }
    SettingsForm #settings-note { height: auto; min-height: 1; max-height: 3; text-style: bold; }
    SettingsForm #settings-keys { height: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Cancel"),
        Binding("ctrl+s", "keep", "Keep", priority=True),
        Binding("f6", "keep_as_defaults", "Defaults", priority=True),
    ]

    def __init__(
        self,
        settings: Settings,
        *,
        theme: str,
        themes: Sequence[str],
        cache_bits: Sequence[int] = (),
        defaults: Path | None = None,
        id: str | None = None,
    ) -> None:
        """
        themes: the names that may be chosen.
        cache_bits: what the model's cache can be made of, besides as wide as activations.
        defaults: where what all conversations begin with is kept; None: nowhere.
        """
        super().__init__(id=id)
        self._values = as_text(settings, theme)
        self._themes = tuple(themes)
        self._cache_bits = tuple(cache_bits)
        self._defaults = defaults
        self._asked: dict[str, str] | None = None
        """The values of which it was asked whether they shall be defaults."""

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False) as box:
            box.border_title = "Settings"
            for name in FIELDS[:-1]:
                label, hint = _LABELS[name]
                with Horizontal(id=f"row-{name}"):
                    yield Label(label, markup=False)
                    suggester = SuggestFromList(self._themes) if name == "theme" else None
                    yield Input(self._values[name], id=name, compact=True, suggester=suggester)
                    yield Static(hint, classes="hint", markup=False)
            with Vertical():
                yield Label(_LABELS["system"][0], markup=False)
                yield TextArea(self._values["system"], id="system", tab_behavior="focus")
            yield Static("", id="settings-note", markup=False)
            yield Static(_KEYS, id="settings-keys", markup=False)

    def on_mount(self) -> None:
        self.query_one("#temperature", Input).focus()

    @property
    def values(self) -> dict[str, str]:
        """What the fields hold."""
        typed = {name: self.query_one(f"#{name}", Input).value for name in FIELDS[:-1]}
        return {**typed, "system": self.query_one("#system", TextArea).text}

    @on(Input.Changed)
    @on(TextArea.Changed)
    def check(self) -> None:
        errors = self._errors()
        for name in FIELDS[:-1]:
            self.query_one(f"#row-{name}").set_class(name in errors, "wrong")
        first = next(iter(errors.values()), "")
        self._note(f"! {first}" if first else "")

    @on(Input.Submitted)
    def action_keep(self) -> None:
        errors = self._errors()
        if errors:
            self.query_one(f"#{next(iter(errors))}").focus()
        else:
            self.dismiss(chosen(self.values))

    def action_keep_as_defaults(self) -> None:
        """Asks first; pressed again, keeps."""
        if self._defaults is None or self._errors():
            self.action_keep()
        elif self._asked == self.values:
            self.dismiss(chosen(self.values, as_defaults=True))
        else:
            self._asked = self.values
            self._note(f"F6 again writes all of this to {self._defaults}")

    def action_leave(self) -> None:
        self.dismiss(None)

    def _note(self, line: str) -> None:
        self.query_one("#settings-note", Static).update(Content(line))

    def _errors(self) -> dict[str, str]:
        return wrong(self.values, themes=self._themes, cache_bits=self._cache_bits)
