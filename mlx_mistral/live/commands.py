"""What a screen asks of a model's thread. Plain values: nothing here computes."""

from __future__ import annotations

from dataclasses import dataclass, field

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation, as the chat format takes it."""

    role: str
    content: str
    token_ids: tuple[int, ...] = ()
    """Of a reply, as `Finished` told them: it is given back to the model in these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How replies are made. None: what the program does unless told otherwise."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1024
    seed: int | None = None
    system: str = ""
    cache_bits: int | None = None
    """Of keys and values; None: as wide as activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Loads a model, in place of the one that is there."""

    model: str
    context: int | None = None
    """Tokens that the cache may hold; None: as many as the model was made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Makes the reply that follows these messages, the last of which is the user's.

    What the cache still holds of an earlier conversation that begins alike is not read again,
    so an edited, regenerated or branched conversation costs what comes after the change.
    """

    id: int
    """Chosen by whoever asks; the events of this reply carry it."""
    messages: tuple[Message, ...]
    settings: Settings = field(default_factory=Settings)
    begun: tuple[int, ...] = ()
    """Token ids that the reply begins with, for continuing from a chosen alternative."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Asks how many tokens a text has."""

    id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What is to be told of while a reply is made; nothing costs anything while it is off."""

    probabilities: bool = False
    """Each token's probability and its likeliest alternatives."""
    experts: bool = False
    """Which experts each layer chose."""


Command = Load | Reply | Count | Watch
