"""The slash commands there are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a command takes after its name."""

    NOTHING = "nothing"
    TEXT = "text"
    MODEL = "a model"
    PATH = "a path"
    COMMAND = "a command"
    WHOLE = "a whole number"
    DECIMAL = "a number"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """One slash command, as help shows it and as the parser checks it."""

    name: str
    does: str
    kind: Kind = Kind.NOTHING
    argument: str = ""
    """What help calls the argument; in brackets where it may be left out."""
    least: float = 0.0
    most: float = float("inf")
    """Of a number."""
    choices: tuple[int, ...] = ()
    """The only numbers it takes."""
    off: str = ""
    """A word that stands for no number."""

    @property
    def is_optional(self) -> bool:
        return self.argument.startswith("[") or self.kind is Kind.NOTHING

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.argument}".rstrip()


COMMANDS = (
    CommandSpec(name="model", kind=Kind.MODEL, argument="[NAME]",
                does="switch to a model; without a name, choose one from a list"),
    CommandSpec(name="system", kind=Kind.TEXT, argument="[TEXT]",
                does="set the system prompt; without a text, remove it"),
    CommandSpec(name="temp", kind=Kind.DECIMAL, argument="NUMBER",
                does="set the temperature; 0 is greedy"),
    CommandSpec(name="top-p", kind=Kind.DECIMAL, argument="NUMBER", most=1.0,
                does="keep the likeliest share of tokens, above 0 and at most 1"),
    CommandSpec(name="max-tokens", kind=Kind.WHOLE, argument="NUMBER", least=1,
                does="end a reply after so many tokens"),
    CommandSpec(name="seed", kind=Kind.WHOLE, argument="NUMBER|off", most=2**63 - 1, off="off",
                does="make sampling repeatable, or no longer"),
    CommandSpec(name="cache-bits", kind=Kind.WHOLE, argument="16|8|4", choices=(16, 8, 4),
                does="keep keys and values in so many bits; what was read is read again"),
    CommandSpec(name="save", kind=Kind.TEXT, argument="[TITLE]",
                does="keep this conversation under a title; it is saved in any case"),
    CommandSpec(name="export", kind=Kind.PATH, argument="[PATH]",
                does="write this conversation to a .md or .json file"),
    CommandSpec(name="import", kind=Kind.PATH, argument="PATH",
                does="take over a conversation that was exported as .json"),
    CommandSpec(name="retry", does="make the last reply again, as another branch"),
    CommandSpec(name="branch", kind=Kind.WHOLE, argument="[NUMBER]", least=1,
                does="go to another branch of the conversation; without a number, to the next"),
    CommandSpec(name="edit", kind=Kind.WHOLE, argument="[NUMBER]", least=1,
                does="edit your message of that number; without one, the last"),
    CommandSpec(name="search", kind=Kind.TEXT, argument="[WORDS]",
                does="find words in all conversations"),
    CommandSpec(name="stats", does="show or hide the machine at work"),
    CommandSpec(name="tokens", does="look at the last reply token by token"),
    CommandSpec(name="clear", does="begin a new conversation; this one stays in the list"),
    CommandSpec(name="help", kind=Kind.COMMAND, argument="[COMMAND]",
                does="show what there is, or what one command does"),
    CommandSpec(name="quit", does="leave; the conversation is kept"),
)  # fmt: skip

BY_NAME = {spec.name: spec for spec in COMMANDS}


def help_lines(name: str = "") -> list[str]:
    """A line for each command, or for the named one alone."""
    specs = [BY_NAME[name]] if name in BY_NAME else list(COMMANDS)
    width = max(len(spec.usage) for spec in specs)
    return [f"{spec.usage:<{width}}  {spec.does}" for spec in specs]
