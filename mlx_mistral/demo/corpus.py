"""The training text of the demo model: seeded chats, made from the phrases in this folder.

`chat` yields the turns of one endless conversation. Nothing that `is_held_out` keeps for the
evaluation ever appears in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from mlx_mistral.demo.phrasebook import (
    LANGUAGES,
    Phrasing,
    draw_question,
    is_held_out,
    read,
    topic_phrasings,
)

OPEN_SLOTS = ("name", "city")
SLOTS = ("name", "city", "colour", "animal", "fruit")
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr pl pr sh st tr th".split()
_VOWELS = "a e i o u a e i o u ai ea ou".split()
_CODAS = ["", "", "", "n", "r", "s", "t", "l", "m", "nd", "st"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One question with its reply.

    `accepted` lists every reply that counts as right; `values` are the words of the reply that
    must be recalled, not only said; `slots` says which facts they are, where they are facts.
    """

    kind: str
    language: str
    user: str
    reply: str
    accepted: tuple[str, ...]
    values: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    system: str = ""


def topics() -> tuple[str, ...]:
    """The names of all topics."""
    return tuple(name for name in read("topics", "en") if name != "frames")


def topic_turn(rng: Random, language: str, topic: str, *, held_out: bool = False) -> Turn:
    """A question about a topic."""
    answers = tuple(read("topics", language)[topic].answers)
    question = draw_question(rng, language, topic_phrasings(language, topic), held_out)
    return Turn(topic, language, question, rng.choice(answers), answers)


def sum_reply(a: int, b: int, language: str) -> str:
    """The worked sum, units first: `7+5=12, 3+4+1=8, so 82`."""
    so = "so" if language == "en" else "donc"
    units = a % 10 + b % 10
    steps = [f"{a % 10}+{b % 10}={units}"]
    if a > 9 or b > 9:
        carry = "+1" if units > 9 else ""
        steps.append(f"{a // 10}+{b // 10}{carry}={(a + b) // 10}")
    return f"{', '.join(steps)}, {so} {a + b}"


def sum_pairs(*, held_out: bool) -> list[tuple[int, int]]:
    """The ordered pairs with a sum below 100: a fifth is held out."""
    pairs = [(a, b) for a in range(100) for b in range(100 - a)]
    return [p for p in pairs if is_held_out("sum", *p, percent=20) == held_out]


def sum_turn(rng: Random, language: str, pair: tuple[int, int] | None = None) -> Turn:
    """A sum below 100; without `pair`, one of the training pairs."""
    while pair is None:
        total = rng.randrange(100)
        a = rng.randrange(total + 1)
        pair = None if is_held_out("sum", a, total - a, percent=20) else (a, total - a)
    a, b = pair
    frame = rng.choice(read("skills", language)["sum"].phrases["ask"])
    reply = sum_reply(a, b, language)
    question = frame.replace("{a}", str(a)).replace("{b}", str(b))
    return Turn("sum", language, question, reply, (reply,))


def word(rng: Random, language: str, *, held_out: bool = False, invented: bool = False) -> str:
    """A word to spell, from the list or invented, of the wanted side of the split."""
    known = read("skills", language)["spell"].phrases["words"]
    while True:
        if invented or rng.random() < 0.75:
            draw = "".join(
                rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
                for _ in range(rng.choice((1, 2, 2, 2, 3)))
            )
        else:
            draw = rng.choice(known)
        if 3 <= len(draw) <= 9 and is_held_out("word", draw) == held_out:
            return draw


def spell_turn(rng: Random, language: str, text: str | None = None) -> Turn:
    """A word to spell letter by letter; without `text`, one of the training words."""
    text = text or word(rng, language)
    frame = rng.choice(read("skills", language)["spell"].phrases["ask"])
    reply = " ".join(text)
    return Turn("spell", language, frame.replace("{w}", text), reply, (reply,))


def unknown_turn(rng: Random, language: str, *, held_out: bool = False) -> Turn:
    """A question that the model cannot answer, and says so."""
    section = read("skills", language)["unknown"]
    phrasings = tuple(
        Phrasing(frame, thing)
        for frame in section.phrases["ask"]
        for thing in section.phrases["things"]
    )
    question = draw_question(rng, language, phrasings, held_out)
    answers = tuple(section.answers)
    return Turn("unknown", language, question, rng.choice(answers), answers)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def tell_turn(rng: Random, language: str, facts: dict[str, str]) -> Turn:
    """The user tells facts (slot -> value); the reply repeats them."""
    sections = read("facts", language)
    clauses = [rng.choice(sections[s].phrases["tell"]).replace("{v}", v) for s, v in facts.items()]
    joiner = rng.choice((" and ", ", and ", ". ") if language == "en" else (" et ", ". "))
    if joiner == ". ":
        clauses = [_capital(clause) for clause in clauses]
    opening = rng.choice(read("topics", language)["frames"].phrases["open"])
    text = joiner.join(clauses) + "."
    user = opening + (text if opening.endswith((", ", ": ")) else _capital(text))
    told = ", ".join(_clause(language, s, v) for s, v in facts.items())
    noted = sections["all"].phrases["reply"][:2]
    accepted = tuple(frame.replace("{v}", told) + "." for frame in noted)
    return Turn(
        "tell", language, user, rng.choice(accepted), accepted, tuple(facts.values()), tuple(facts)
    )


def _clause(language: str, slot: str, value: str) -> str:
    return read("facts", language)[slot].phrases["reply"][0].replace("{v}", value)


def recall_turn(
    rng: Random, language: str, slot: str, facts: dict[str, str], *, held_out: bool = False
) -> Turn:
    """The user asks a fact back (`all`: every fact). An untold fact gets an honest reply."""
    sections = read("facts", language)
    phrasings = tuple(Phrasing(frame) for frame in sections[slot].phrases["ask"])
    question = draw_question(rng, language, phrasings, held_out)
    wanted = {s: facts[s] for s in SLOTS if s in facts and slot in (s, "all")}
    if wanted:
        reply = _capital(", ".join(_clause(language, s, v) for s, v in wanted.items())) + "."
        kind = "recall"
    else:
        reply, kind = sections["all"].phrases["reply"][2] + ".", "untold"
    return Turn(kind, language, question, reply, (reply,), tuple(wanted.values()), tuple(wanted))


def known_values() -> tuple[str, ...]:
    """Every listed value of every slot, in both languages."""
    found = {
        value: None
        for language in LANGUAGES
        for slot in SLOTS
        for value in read("facts", language)[slot].phrases["values"]
    }
    return tuple(found)


def draw_facts(rng: Random, language: str, count: int) -> dict[str, str]:
    """`count` slots in random order, each with a value."""
    sections = read("facts", language)

    def value(slot: str) -> str:
        if slot in OPEN_SLOTS and rng.random() < 0.25:
            return _capital(word(rng, language, invented=True))
        return rng.choice(sections[slot].phrases["values"])

    return {s: value(s) for s in rng.sample(SLOTS, count)}


def repeat_turn(rng: Random, language: str, text: str | None = None) -> Turn:
    """Words to say again; without `text`, one to three, known or invented."""
    if text is None:
        sections = read("facts", language)
        words = [
            word(rng, language, invented=True)
            if rng.random() < 0.4
            else rng.choice(sections[rng.choice(SLOTS)].phrases["values"])
            for _ in range(rng.choice((1, 1, 2, 3)))
        ]
        text = " ".join(words)
    frame = rng.choice(read("skills", language)["repeat"].phrases["ask"])
    return Turn("repeat", language, frame.replace("{w}", text), text, (text,), (text,))


def filler_turn(rng: Random, language: str, untold: list[str]) -> Turn:
    """A turn that tells no fact."""
    draw = rng.random()
    if draw < 0.42:
        return topic_turn(rng, language, rng.choice(topics()))
    if draw < 0.60:
        return sum_turn(rng, language)
    if draw < 0.78:
        return spell_turn(rng, language)
    if draw < 0.88:
        return repeat_turn(rng, language)
    if draw < 0.93 or not untold:
        return unknown_turn(rng, language)
    return recall_turn(rng, language, rng.choice(untold), {})


def chat(rng: Random) -> Iterator[Turn]:
    """One endless training chat: facts first, then other turns with recalls among them.

    The pause before each burst of recalls is drawn anew, so the distance back to a fact spreads
    from a few tokens to far beyond layers x window.
    """
    language = rng.choice(LANGUAGES)
    system = rng.choice(read("skills", language)["system"].phrases["ask"])
    with_system = rng.random() < 0.08
    facts = draw_facts(rng, language, rng.choice((0, 2, 3, 3, 4, 4, 5, 5)))
    for turn in _turns(rng, language, facts):
        shown = with_system and rng.random() < 0.4
        yield Turn(
            turn.kind,
            turn.language,
            turn.user,
            turn.reply,
            turn.accepted,
            turn.values,
            turn.slots,
            system if shown else "",
        )


def _turns(rng: Random, language: str, facts: dict[str, str]) -> Iterator[Turn]:
    if rng.random() < 0.3:
        yield topic_turn(rng, language, "hello")
    waiting, told = list(facts), dict[str, str]()
    while True:
        while waiting and (not told or rng.random() < 0.75):
            now = [waiting.pop() for _ in range(min(len(waiting), rng.choice((1, 1, 2, 3))))]
            told |= {slot: facts[slot] for slot in now}
            yield tell_turn(rng, language, {slot: facts[slot] for slot in now})
        for _ in range(int(13 * rng.random() ** 1.6)):
            # Now and then in the other language, so that each question says which one it wants.
            spoken = rng.choice(LANGUAGES) if rng.random() < 0.4 else language
            yield filler_turn(rng, spoken, [s for s in SLOTS if s not in told])
        if not told:
            yield filler_turn(rng, language, list(SLOTS))
            continue
        if rng.random() < 0.3:
            yield recall_turn(rng, language, "all", told)
        count = len(told) if rng.random() < 0.5 else rng.randint(0, len(told))
        for slot in rng.sample(list(told), count):
            yield recall_turn(rng, language, slot, told)
