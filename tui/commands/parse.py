"""From a line of the composer to a command, or to what is wrong with it."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from mlx_mistral.tui.visible import clipped, one_line

from .table import BY_NAME, CommandSpec, Kind

_SHOWN = 24
"""Cells of a wrong word that an error repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command that may be carried out: its argument is what its kind says."""

    name: str
    value: str | int | float | None = None
    """None: left out, or the word for no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a line is no command: one line, to be shown as plain text."""

    error: str


def is_command(text: str) -> bool:
    """A slash begins a command, two slashes a message that begins with one."""
    return text.startswith("/") and not text.startswith("//")


def message_of(text: str) -> str:
    """What a line that is no command says, without the slash that kept it from being one."""
    return text[1:] if text.startswith("//") else text


def parse(text: str) -> Command | Refused:
    """A line that begins with a slash. Names may be in any case and cut where one is left."""
    word, argument = _split(text)
    spec = find(word)
    if spec is None:
        return Refused(error=_unknown(word))
    if not argument:
        if spec.is_optional:
            return Command(name=spec.name)
        return Refused(error=f"/{spec.name} needs {spec.kind.value}: {spec.usage}")
    return _with_argument(spec, argument)


def find(word: str) -> CommandSpec | None:
    """The command of a name, or the only one whose name begins so."""
    word = word.lower()
    if word in BY_NAME:
        return BY_NAME[word]
    beginning = [spec for name, spec in BY_NAME.items() if word and name.startswith(word)]
    return beginning[0] if len(beginning) == 1 else None


def nearest(word: str) -> str | None:
    """The name that someone who wrote `word` may have meant."""
    found = difflib.get_close_matches(word.lower()[:40], BY_NAME, n=1, cutoff=0.5)
    return found[0] if found else None


def _split(text: str) -> tuple[str, str]:
    parts = text[1:].split(maxsplit=1)
    if not parts or text[1:2].isspace():
        return "", ""
    return parts[0], parts[1].strip() if len(parts) > 1 else ""


def _unknown(word: str) -> str:
    if not word:
        return "a command has a name; /help shows all"
    shown = _short(word)
    beginning = [f"/{name}" for name in BY_NAME if name.startswith(word.lower())]
    if beginning:
        return f"/{shown} may be {' or '.join(beginning)}; write more of it"
    near = nearest(word)
    meant = f"did you mean /{near}?" if near else "/help shows all"
    return f"there is no command /{shown}; {meant} (// sends a message that begins with /)"


def _with_argument(spec: CommandSpec, argument: str) -> Command | Refused:
    match spec.kind:
        case Kind.NOTHING:
            return Refused(error=f"/{spec.name} takes nothing after it, not '{_short(argument)}'")
        case Kind.COMMAND:
            named = find(argument.removeprefix("/"))
            if named is None:
                return Refused(error=_unknown(argument.removeprefix("/")))
            return Command(name=spec.name, value=named.name)
        case Kind.WHOLE | Kind.DECIMAL:
            return _with_number(spec, argument)
        case _:
            return Command(name=spec.name, value=argument)


def _with_number(spec: CommandSpec, argument: str) -> Command | Refused:
    if spec.off and argument.lower() == spec.off:
        return Command(name=spec.name)
    number = whole(argument) if spec.kind is Kind.WHOLE else decimal(argument)
    is_zero_share = spec.name == "top-p" and number == 0
    is_other = bool(spec.choices) and number not in spec.choices
    if number is None or is_other or not spec.least <= number <= spec.most or is_zero_share:
        wanted = f"{spec.kind.value}, {_range_of(spec)}"
        return Refused(error=f"/{spec.name} takes {wanted}, not '{_short(argument)}'")
    return Command(name=spec.name, value=number)


def whole(text: str) -> int | None:
    """A whole number of at most 19 digits; None: it is none."""
    bare = text.strip().replace(",", "").replace("_", "")
    is_number = bare.isascii() and bare.removeprefix("-").isdigit() and len(bare) <= 20
    return int(bare) if is_number else None


def decimal(text: str) -> float | None:
    """A number that is finite; None: it is none."""
    try:
        number = float(text.strip())
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _range_of(spec: CommandSpec) -> str:
    if spec.choices:
        return " or ".join(map(str, spec.choices))
    if spec.name == "top-p":
        return "above 0 and at most 1"
    least = f"{spec.least:g} or more"
    return f"{least}, or {spec.off}" if spec.off else least


def _short(word: str) -> str:
    return clipped(one_line(word), _SHOWN)
