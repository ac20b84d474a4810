"""The text files of the corpus, read into phrases, and the split into training and held-out.

A file is a list of sections. `[name]` opens one, `key: a; b; c` gives its phrases of a kind,
`> text` one of its answers, `#` a comment. `{x}` in a phrase is a place to fill.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

LANGUAGES = ("en", "fr")
HELD_OUT_PERCENT = 12
_LOWER_CHANCE = 0.12
_BARE_CHANCE = 0.12


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a file: phrases by key, and answers."""

    name: str
    phrases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)


@cache
def read(kind: str, language: str) -> dict[str, Section]:
    """The sections of `<kind>.<language>.txt`, by name, in file order."""
    sections: dict[str, Section] = {}
    section = Section("")
    path = Path(__file__).parent / f"{kind}.{language}.txt"
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = sections[line[1:-1]] = Section(line[1:-1])
        elif line.startswith(">"):
            section.answers.append(line[1:].strip())
        elif line and not line.startswith("#"):
            key, _, values = line.partition(":")
            # A space that belongs to a phrase follows the one after its separator.
            section.phrases[key] = tuple(v.removeprefix(" ") for v in values.split(";"))
    return sections


def is_held_out(*key: object, percent: int = HELD_OUT_PERCENT) -> bool:
    """Whether a phrase, a sum or a word is kept for the evaluation: a fixed hash decides."""
    text = "|".join(str(part) for part in key)
    return zlib.crc32(text.encode()) % 100 < percent


def normalized(question: str) -> str:
    """A question without case, spacing and closing marks: how strings are told apart."""
    return re.sub(r"[\s.?!]+", " ", question).strip().lower()


@dataclass(frozen=True, slots=True)
class Phrasing:
    """A way to ask: a frame, perhaps filled with a subject."""

    frame: str
    subject: str = ""
    wrapped: bool = True

    @property
    def text(self) -> str:
        return self.frame.replace("{x}", self.subject)


@cache
def topic_phrasings(language: str, topic: str) -> tuple[Phrasing, ...]:
    """Every way to ask about a topic, before openings and closings."""
    sections = read("topics", language)
    phrasings: list[Phrasing] = []
    for key, values in sections[topic].phrases.items():
        if key in ("ask", "plain"):
            phrasings += [Phrasing(value, wrapped=key == "ask") for value in values]
        else:
            frames = sections["frames"].phrases[key]
            phrasings += [Phrasing(frame, subject) for frame in frames for subject in values]
    return tuple(phrasings)


def draw_question(
    rng: Random, language: str, phrasings: tuple[Phrasing, ...], held_out: bool
) -> str:
    """One question of the wanted side of the split.

    A framed subject is held out as a pair, whatever surrounds it. A fixed question is held out
    together with its opening and closing, since its wording exists once.
    Raises: ValueError: nothing of that kind is held out.
    """
    if held_out and not has_held_out(language, phrasings):
        raise ValueError(f"no phrasing like {phrasings[0].text!r} is held out")
    frames = read("topics", language)["frames"].phrases
    while True:
        phrasing = rng.choice(phrasings)
        opening, closing = ("", "")
        if phrasing.wrapped:
            opening, closing = rng.choice(frames["open"]), rng.choice(frames["close"])
        question = _dress(rng, opening, phrasing.text, closing)
        if _is_held_out(language, opening, phrasing, closing) == held_out:
            return question


@cache
def has_held_out(language: str, phrasings: tuple[Phrasing, ...]) -> bool:
    """Whether the evaluation has any of these: a topic with few fixed questions may have none."""
    frames = read("topics", language)["frames"].phrases
    return any(
        _is_held_out(language, opening, phrasing, closing)
        for phrasing in phrasings
        for opening in (frames["open"] if phrasing.wrapped else ("",))
        for closing in (frames["close"] if phrasing.wrapped else ("",))
    )


def _is_held_out(language: str, opening: str, phrasing: Phrasing, closing: str) -> bool:
    if phrasing.subject:
        return is_held_out(language, phrasing.frame, phrasing.subject)
    return is_held_out(language, normalized(f"{opening} {phrasing.text} {closing}"))


def _dress(rng: Random, opening: str, text: str, closing: str) -> str:
    """Joins the parts, now and then in lower case or without its closing mark."""
    if opening.endswith((", ", ": ")) and not text.startswith(("I ", "I'")):
        text = text[0].lower() + text[1:]
    question = opening + text + closing
    if not closing and rng.random() < _BARE_CHANCE:
        question = question.rstrip(" .?!")
    return question.lower() if rng.random() < _LOWER_CHANCE else question
