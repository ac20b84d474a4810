"""What a person wants unless a conversation says otherwise, in a file that people may edit."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mlx_mistral.errors import SessionError
from mlx_mistral.files.home import home
from mlx_mistral.files.untrusted import shown

from .places import PREFERENCES
from .plain_text import storable
from .whole_file import write_whole

MAX_BYTES = 1 << 20
MAX_NUMBER = 1e9
Value = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """None: what the program does unless told otherwise."""

    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    cache_bits: int | None = None
    """Of keys and values."""
    theme: str | None = None
    keep_cache: bool | None = None
    """Whether what a model has read of a long conversation is kept on disk beside it."""
    keep_cache_gb: float | None = None
    """How much of the disk that may take at most, in GB (10^9 bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What a key takes, in words and as a check."""

    expected: str
    accepts: Callable[[object], bool]


def _text(limit: int) -> _Kind:
    return _Kind(
        expected=f"a text of at most {limit} characters",
        accepts=lambda value: isinstance(value, str) and len(value) <= limit,
    )


def _whole(low: int, high: int) -> _Kind:
    return _Kind(
        expected=f"a whole number from {low} to {high}",
        accepts=lambda value: type(value) is int and low <= value <= high,
    )


def _number(expected: str, accepts: Callable[[float], bool]) -> _Kind:
    def check(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return abs(value) < MAX_NUMBER and accepts(value)  # which NaN is not

    return _Kind(expected=f"a number {expected}", accepts=check)


_KINDS = {
    "model": _text(1000),
    "system": _text(MAX_BYTES // 16),
    "temperature": _number("from 0 up", lambda value: value >= 0),
    "top_p": _number("above 0 and at most 1", lambda value: 0 < value <= 1),
    "max_tokens": _whole(1, (1 << 31) - 1),
    "seed": _whole(0, (1 << 63) - 1),
    "cache_bits": _whole(2, 8),
    "theme": _text(100),
    "keep_cache": _Kind(expected="true or false", accepts=lambda value: isinstance(value, bool)),
    "keep_cache_gb": _number("above 0", lambda value: value > 0),
}


def default_path() -> Path:
    """Beside the conversations."""
    return home() / PREFERENCES


def load_preferences(path: Path) -> Preferences:
    """The preferences in a file; without the file none.

    Raises: SessionError: unreadable, no TOML, an unknown key or a value that a key does not take.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Preferences()
    except OSError as error:
        raise SessionError(f"{path} cannot be read: {error.strerror}; correct that") from None
    if len(raw) > MAX_BYTES:
        raise SessionError(f"{path} has more than {MAX_BYTES} bytes; shorten it")
    try:
        values = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SessionError(f"{path} is no TOML: {error}; correct or delete it") from None
    for key, value in values.items():
        _check(path, key, value)
    return Preferences(**values)


def save_preferences(path: Path, preferences: Preferences) -> None:
    """Writes all that is not None; comments that were in the file are not kept.

    Raises: SessionError: a value that its key does not take, or the file cannot be written; what
        was there before is still there.
    """
    lines = []
    for key, value in asdict(preferences).items():
        if value is not None:
            _check(path, key, value)
            lines.append(f"{key} = {_toml(value)}\n")
    write_whole(path, "".join(lines))


def _check(path: Path, key: str, value: object) -> None:
    kind = _KINDS.get(key)
    if kind is None:
        known = ", ".join(field.name for field in fields(Preferences))
        raise SessionError(f"{path}: {shown(key)} is no setting; the settings are {known}")
    if not kind.accepts(value):
        raise SessionError(f"{path}: {key} takes {kind.expected}, not {shown(value)}; correct it")


def _toml(value: Value) -> str:
    """A basic string, a truth, an integer or a float. Source: TOML 1.0.0, https://toml.io/en/v1.0.0."""
    if isinstance(value, str):
        return f'"{"".join(map(_escaped, storable(value)))}"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() else f"\\U{ord(char):08x}"
