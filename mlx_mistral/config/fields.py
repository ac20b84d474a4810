"""Strict reading of a JSON object: every key is typed, and none is left unread by accident."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from mlx_mistral.errors import ConfigError

_REQUIRED: Any = object()

MAX_DIMENSION = 1 << 24
"""Larger than any dimension, vocabulary or context in use; keeps products far from overflow."""


class Fields:
    """A JSON object whose keys are taken one by one; `finish` rejects what nobody took."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where} is {_kind(data)}; a JSON object is expected")
        self.where = where
        self._left: dict[str, Any] = dict(data)

    def __contains__(self, key: str) -> bool:
        return key in self._left

    def take(self, key: str, default: Any = _REQUIRED) -> Any:
        """The raw value, null included. Raises: ConfigError: absent, and no default."""
        if key in self._left:
            return self._left.pop(key)
        if default is _REQUIRED:
            raise ConfigError(f"{self.where} has no {key!r}; it is needed to build the model")
        return default

    def integer(self, key: str, default: Any = _REQUIRED, *, minimum: int = 1) -> Any:
        """An int, or the default where the key is absent or null and a default is given."""
        value = self.take(key, default)
        if value is None and default is not _REQUIRED:
            return default
        return as_integer(value, f"{self.where}: {key}", minimum=minimum)

    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        """A finite float above zero, or the default where the key is absent or null."""
        value = self.take(key, default)
        if value is None and default is not _REQUIRED:
            return default
        return as_number(value, f"{self.where}: {key}")

    def boolean(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(f"{self.where}: {key} is {value!r}; true or false is expected")
        return value

    def nested(self, key: str) -> Fields | None:
        """The object under a key; None where it is absent or null."""
        value = self.take(key, None)
        return None if value is None else Fields(value, f"{self.where}: {key}")

    def expect(self, key: str, *allowed: object) -> None:
        """Takes a key that may only say what this program does anyway."""
        value = self.take(key, None)
        if value is not None and value not in allowed:
            raise ConfigError(
                f"{self.where}: {key} is {value!r}; only {allowed[0]!r} is supported here"
            )

    def drop(self, keys: Iterable[str]) -> None:
        """Takes keys that are known not to change what the model computes."""
        for key in keys:
            self._left.pop(key, None)

    def remaining(self) -> list[str]:
        """The keys that nobody has taken yet."""
        return list(self._left)

    def finish(self) -> None:
        """Raises: ConfigError: a key is left that nobody knows and that says something."""
        unknown = sorted(key for key, value in self._left.items() if value is not None)
        if unknown:
            raise ConfigError(
                f"{self.where} has the unknown key {unknown[0]!r}, which could change the result; "
                "this model needs a newer version of this program"
            )


def as_integer(value: object, where: str, *, minimum: int = 1) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{where} is {_kind(value)}; an integer is expected")
    if not minimum <= value <= MAX_DIMENSION:
        raise ConfigError(f"{where} is {value}; between {minimum} and {MAX_DIMENSION} is expected")
    return value


def as_number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} is {_kind(value)}; a number is expected")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number <= 0:
        raise ConfigError(f"{where} is {value}; a finite number above zero is expected")
    return number


def _kind(value: object) -> str:
    return "null" if value is None else f"{str(value)[:40]!r} ({type(value).__name__})"
