"""Settings of replies: from what a person prefers, then from what a session was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace

from mlx_mistral.live.commands import Settings
from mlx_mistral.sessions.codec import Setting
from mlx_mistral.sessions.preferences import Preferences
from mlx_mistral.tui.commands.parse import Command
from mlx_mistral.tui.settings_form import FULL_BITS

_NAMES = tuple(field.name for field in fields(Settings))


def preferred(preferences: Preferences) -> Settings:
    """The program's own settings but for what is preferred."""
    return _changed(Settings(), {k: v for k, v in asdict(preferences).items() if v is not None})


def kept(settings: Settings, session: Mapping[str, Setting]) -> Settings:
    """`settings` but for what a session was kept with; what it does not know is left out."""
    return _changed(settings, session)


def to_keep(settings: Settings) -> dict[str, Setting]:
    """What a session is kept with."""
    return {name: getattr(settings, name) for name in _NAMES}


def as_preferences(settings: Settings, theme: str, before: Preferences) -> Preferences:
    """What is preferred once settings are defaults; what they say nothing of stays."""
    return replace(before, **to_keep(settings), theme=theme)  # type: ignore[arg-type]


_COMMANDS = {
    "system": "system",
    "temp": "temperature",
    "top-p": "top_p",
    "max-tokens": "max_tokens",
    "seed": "seed",
    "cache-bits": "cache_bits",
}


def after(settings: Settings, command: Command) -> Settings | None:
    """What a slash command makes of the settings; None: it is about something else."""
    name = _COMMANDS.get(command.name)
    if name is None:
        return None
    value = "" if name == "system" and command.value is None else command.value
    if name == "cache_bits" and value == FULL_BITS:
        value = None
    return _changed(settings, {name: value})


def changed_line(command: Command) -> str:
    """What has been changed, in words."""
    name = _COMMANDS[command.name].replace("_", " ")
    return f"{name}: {'none' if command.value is None else command.value}"


def _changed(settings: Settings, values: Mapping[str, Setting]) -> Settings:
    known = {name: values[name] for name in _NAMES if name in values}
    return replace(settings, **known)  # type: ignore[arg-type]
