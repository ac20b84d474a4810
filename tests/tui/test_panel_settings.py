"""The settings' form: what is wrong is said in one line, what is right comes back as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual.app import App
from textual.widgets import Input, Static, TextArea

from mlx_mistral.live.commands import Settings
from mlx_mistral.tui.settings import SettingsForm
from mlx_mistral.tui.settings_form import FIELDS, Chosen, as_text, chosen, wrong

THEMES = ("textual-dark", "textual-light")
ODD = Settings(
    temperature=0.7, top_p=0.95, max_tokens=77, seed=2**63 - 1, cache_bits=8,
    system="Be [b]brief[/b].\nAnd kind.",
)  # fmt: skip


@pytest.mark.parametrize("settings", [Settings(), ODD, replace(ODD, temperature=1e-3, seed=0)])
def test_settings_come_back_as_they_were(settings: Settings) -> None:
    values = as_text(settings, THEMES[1])
    assert tuple(values) == FIELDS
    assert wrong(values, themes=THEMES, cache_bits=(4, 8)) == {}
    assert chosen(values) == Chosen(settings=settings, theme=THEMES[1])


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        ("temperature", ["", "hot", "-0.1", "nan", "inf", "1e999"]),
        ("top_p", ["", "0", "1.01", "nan"]),
        ("max_tokens", ["", "0", "-1", "1.5", "9" * 5000, str(2**31)]),
        ("seed", ["-1", "x", "1.0", str(2**63)]),
        ("cache_bits", ["3", "x", "-4", "32"]),
        ("theme", ["", "none", "textual"]),
        ("system", ["x" * 65_537]),
    ],
)
def test_each_field_says_alone_what_it_takes(field: str, texts: list[str]) -> None:
    for text in texts:
        values = as_text(Settings(), THEMES[0]) | {field: text}
        errors = wrong(values, themes=THEMES, cache_bits=(4, 8))
        assert list(errors) == [field], text
        assert errors[field].isprintable()
        assert len(errors[field]) <= 70


def test_bits_that_no_cache_has_are_refused_with_what_to_do() -> None:
    values = as_text(ODD, THEMES[0])
    assert "cache bits are 16;" in wrong(values, themes=THEMES, cache_bits=())["cache_bits"]


@pytest.mark.parametrize("full", ["", "16"])
def test_a_cache_as_wide_as_activations_has_no_bits_of_its_own(full: str) -> None:
    values = as_text(Settings(), THEMES[0]) | {"cache_bits": full}
    assert wrong(values, themes=THEMES, cache_bits=(8, 4)) == {}
    assert chosen(values).settings.cache_bits is None


class Screen(App[None]):
    def __init__(self, settings: Settings, defaults: Path | None = None) -> None:
        super().__init__()
        self._defaults = defaults
        self._settings = settings
        self.chosen: list[Chosen | None] = []

    def on_mount(self) -> None:
        form = SettingsForm(
            self._settings,
            theme=THEMES[0],
            themes=THEMES,
            cache_bits=(4, 8),
            defaults=self._defaults,
        )
        self.push_screen(form, self.chosen.append)

    @property
    def note(self) -> str:
        return str(self.screen.query_one("#settings-note", Static).render())


@pytest.mark.parametrize(("size", "no_color"), [((80, 24), True), ((140, 45), False)])
async def test_everything_is_in_sight_and_enter_keeps(
    size: tuple[int, int], no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    app = Screen(ODD)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        shown = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        for text in ("Temperature", "Cache bits", "Be [b]brief[/b].", "And kind.", "Esc leaves"):
            assert text in shown
        await pilot.press("tab", "end", "backspace", "enter")
        await pilot.pause()
        assert app.chosen == [Chosen(settings=replace(ODD, top_p=0.9), theme=THEMES[0])]


async def test_what_is_wrong_is_said_at_once_and_keeps_the_form_open() -> None:
    app = Screen(Settings())
    async with app.run_test(size=(80, 24)) as pilot:
        app.screen.query_one("#seed", Input).value = "[red]"
        await pilot.press("x")
        await pilot.pause()
        assert app.note == "! a temperature is a number of 0 or more; 0 is greedy"
        await pilot.press("enter")
        assert app.chosen == []
        await pilot.press("backspace", "0")
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert app.note.startswith("! a seed")
        assert app.focused is not None
        assert app.focused.id == "seed"
        app.screen.query_one("#seed", Input).value = "7"
        app.screen.query_one("#system", TextArea).text = "  Be brief.\n"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert app.chosen == [
            Chosen(settings=Settings(seed=7, system="Be brief."), theme=THEMES[0])
        ]


async def test_defaults_are_kept_only_when_f6_is_pressed_again(tmp_path: Path) -> None:
    app = Screen(Settings(), defaults=tmp_path / "settings.toml")
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("f6")
        assert app.note.startswith("F6 again writes all of this to ")
        await pilot.press("home", "delete", "1")  # other values are asked about anew
        await pilot.press("f6")
        assert app.chosen == []
        assert app.note.startswith("F6 again")
        await pilot.press("f6")
        await pilot.pause()
        wanted = Settings(temperature=1)
        assert app.chosen == [Chosen(settings=wanted, theme=THEMES[0], as_defaults=True)]


async def test_escape_leaves_everything_as_it_was() -> None:
    app = Screen(Settings())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("9", "escape")
        await pilot.pause()
        assert app.chosen == [None]
