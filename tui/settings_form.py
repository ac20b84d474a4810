"""From what was typed into the settings' form to settings, or to what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_mistral.live.commands import Settings

from .commands.parse import decimal, whole

FIELDS = ("temperature", "top_p", "max_tokens", "seed", "cache_bits", "theme", "system")
MAX_SYSTEM = 65_536
"""Characters of a system prompt: what a file of preferences takes."""
FULL_BITS = 16
"""Of a cache as wide as activations."""
_MOST_TOKENS = 2**31 - 1
_MOST_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What the form ends with."""

    settings: Settings
    theme: str
    as_defaults: bool = False
    """Also of conversations that begin later."""


def as_text(settings: Settings, theme: str) -> dict[str, str]:
    """What the form shows; what is not set is empty."""
    return {
        "temperature": f"{settings.temperature:g}",
        "top_p": f"{settings.top_p:g}",
        "max_tokens": str(settings.max_tokens),
        "seed": "" if settings.seed is None else str(settings.seed),
        "cache_bits": str(settings.cache_bits or FULL_BITS),
        "theme": theme,
        "system": settings.system,
    }


def wrong(
    values: Mapping[str, str], *, themes: Sequence[str], cache_bits: Sequence[int]
) -> dict[str, str]:
    """For each field that cannot be taken one line that says what can; in the form's order."""
    temperature, top_p = decimal(values["temperature"]), decimal(values["top_p"])
    max_tokens = whole(values["max_tokens"])
    found: dict[str, str] = {}
    if temperature is None or temperature < 0:
        found["temperature"] = "a temperature is a number of 0 or more; 0 is greedy"
    if top_p is None or not 0 < top_p <= 1:
        found["top_p"] = "top-p is a number above 0 and at most 1; 1 keeps every token"
    if max_tokens is None or not 1 <= max_tokens <= _MOST_TOKENS:
        found["max_tokens"] = "max tokens is a whole number of 1 or more"
    if values["seed"].strip():
        seed = whole(values["seed"])
        if seed is None or not 0 <= seed <= _MOST_SEED:
            found["seed"] = "a seed is a whole number of 0 or more; empty: another each time"
    if values["cache_bits"].strip() and whole(values["cache_bits"]) not in (FULL_BITS, *cache_bits):
        choice = " or ".join(map(str, (FULL_BITS, *cache_bits)))
        found["cache_bits"] = f"cache bits are {choice}; {FULL_BITS}: as wide as activations"
    if values["theme"].strip() not in themes:
        found["theme"] = "there is no such theme; Right completes the name of one"
    if len(values["system"]) > MAX_SYSTEM:
        found["system"] = f"a system prompt has at most {MAX_SYSTEM:,} characters"
    return found


def chosen(values: Mapping[str, str], *, as_defaults: bool = False) -> Chosen:
    """What values say with which nothing is `wrong`."""
    bits = whole(values["cache_bits"])
    settings = Settings(
        temperature=float(values["temperature"]),
        top_p=float(values["top_p"]),
        max_tokens=whole(values["max_tokens"]) or 1,
        seed=whole(values["seed"]),
        cache_bits=None if bits in (None, FULL_BITS) else bits,
        system=values["system"].strip(),
    )
    return Chosen(settings=settings, theme=values["theme"].strip(), as_defaults=as_defaults)
