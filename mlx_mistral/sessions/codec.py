"""Settings and statistics as JSON, in the file and in what is exported; read strictly."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from mlx_mistral.errors import CheckpointError, SessionError
from mlx_mistral.files.untrusted import parse_json, shown

from .tree import Statistics

Setting = str | int | float | bool | None
MAX_SETTINGS = 100
MAX_TEXT = 1 << 20
"""Characters of one setting, a title, a model's name."""
MAX_INTEGER = (1 << 63) - 1
MAX_TIME = 253_402_300_799.0
"""The end of the year 9999, the last that a date can be made of."""
_COUNTED_LATER = ("prompt_tokens", "reused_tokens")


def to_json(value: Mapping[str, Any]) -> str:
    """ASCII, so that no control character of a text acts where it is shown.

    Raises: SessionError: a value is no JSON.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SessionError(f"settings cannot be kept ({error}); use plain values") from None


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object. Raises: SessionError: not one, or not strictly."""
    try:
        return parse_json(raw, where)
    except CheckpointError as error:
        raise SessionError(f"{error}; take it from another copy") from None


def settings_of(value: object, where: str) -> dict[str, Setting]:
    """Raises: SessionError: no object of few plain values."""
    if not isinstance(value, dict) or len(value) > MAX_SETTINGS:
        raise wrong(where, "settings", f"are no object of at most {MAX_SETTINGS} values", value)
    for key, item in value.items():
        text(key, where, "a setting's name")
        if isinstance(item, str):
            text(item, where, f"setting {shown(key)}")
        elif isinstance(item, bool) or item is None:
            continue
        else:
            number(item, where, f"setting {shown(key)}", -MAX_INTEGER, MAX_INTEGER)
    return dict(value)


def statistics_of(value: object, where: str) -> Statistics:
    """Raises: SessionError: keys are missing or unknown, or of wrong types.

    What was not counted at first may be missing.
    """
    if isinstance(value, dict):
        value = dict.fromkeys(_COUNTED_LATER) | value
    entry = keys(value, where, tuple(field.name for field in fields(Statistics)))
    counted = {
        name: None if entry[name] is None else integer(entry[name], where, name)
        for name in _COUNTED_LATER
    }
    first = entry["first_token_seconds"]
    return Statistics(
        tokens=integer(entry["tokens"], where, "tokens"),
        seconds=number(entry["seconds"], where, "seconds", 0, MAX_TIME),
        tps=number(entry["tps"], where, "tps", 0, MAX_INTEGER),
        first_token_seconds=(
            None if first is None else number(first, where, "first_token_seconds", 0, MAX_TIME)
        ),
        reason=text(entry["reason"], where, "reason"),
        model=text(entry["model"], where, "model"),
        **counted,
    )


def statistics_json(statistics: Statistics | None) -> str | None:
    return None if statistics is None else to_json(asdict(statistics))


def token_ids_blob(token_ids: Sequence[int]) -> bytes | None:
    """Ids as the file keeps them; None where there are none, or one is no id."""
    try:
        return struct.pack(f"<{len(token_ids)}I", *token_ids) or None
    except struct.error:
        return None


def token_ids_of(blob: object) -> tuple[int, ...]:
    """What `token_ids_blob` made; none where it is damaged: the text says the same."""
    if not isinstance(blob, bytes) or len(blob) % 4:
        return ()
    return struct.unpack(f"<{len(blob) // 4}I", blob)


def keys(value: object, where: str, expected: tuple[str, ...]) -> dict[str, Any]:
    """An object of exactly these keys. Raises: SessionError: it is not."""
    if not isinstance(value, dict) or set(value) != set(expected):
        raise wrong(where, "an entry", f"is no object of {', '.join(expected)}", value)
    return value


def text(value: object, where: str, what: str, limit: int = MAX_TEXT) -> str:
    """Raises: SessionError: no text, or too long, or with half a surrogate pair."""
    if not isinstance(value, str) or len(value) > limit:
        raise wrong(where, what, f"is no text of at most {limit} characters", value)
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise wrong(where, what, "holds half a character", value)
    return value


def integer(value: object, where: str, what: str) -> int:
    """Raises: SessionError: no whole number from 0 up that SQLite holds."""
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise wrong(where, what, "is no whole number from 0 up", value)
    return value


def number(value: object, where: str, what: str, low: float, high: float) -> float:
    """Raises: SessionError: no number from `low` to `high`."""
    if type(value) not in (int, float) or not isinstance(value, int | float):
        raise wrong(where, what, "is no number", value)
    if not (low <= value <= high and math.isfinite(value)):
        raise wrong(where, what, f"is no number from {low} to {high}", value)
    return value


def wrong(where: str, what: str, fault: str, value: object) -> SessionError:
    """What stands where, as one line."""
    return SessionError(f"{where}: {what} {fault}, but {shown(value)}; correct it")
