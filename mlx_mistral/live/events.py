"""What a model's thread tells, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A loaded model, as far as a screen shows it."""

    name: str
    family: str
    parameters: int
    active_parameters: int
    weight_bytes: int
    """In memory."""
    bits_per_weight: float
    n_layers: int
    windows: tuple[int | None, ...]
    """For each layer how many tokens it sees; None: all."""
    n_experts: int
    """0 without a mixture."""
    experts_per_token: int
    context: int | None
    """Tokens that the cache may hold."""
    has_chat_format: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """A model is being loaded; `done` of `total` bytes, 0 of 0 where that is not known."""

    model: str
    stage: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    facts: ModelFacts
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """The model that was there before is gone, unless a Loaded tells of it right after."""

    model: str
    error: str
    """One line: what, where, what next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The prompt is being read: `done` of `total` new tokens; `reused` were in the cache."""

    id: int
    done: int
    total: int
    reused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A token that could have come."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A token of the reply. `text` may be empty where a letter takes several tokens.

    Text is a model's: whatever a stranger's weights make of a stranger's prompt.
    """

    id: int
    token: int
    text: str
    probability: float | None = None
    """Of this token, before temperature and top-p; None unless watched, as are the alternatives."""
    alternatives: tuple[Alternative, ...] = ()
    """The likeliest tokens, the likeliest first; this one is among them if it is one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Figures of a reply so far; comes a few times a second and once more with `Finished`."""

    id: int
    prompt_tokens: int
    """Of the whole prompt, `reused_tokens` and what the reply begins with included."""
    reused_tokens: int
    reply_tokens: int
    prefill_tps: float
    decode_tps: float
    first_token_seconds: float | None
    cache_tokens: int
    """Tokens of the conversation so far, however many of them a window still holds."""
    cache_bytes: int
    memory_bytes: int
    """What MLX holds now."""
    memory_limit_bytes: int
    """What this machine gives a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """Which experts worked on the tokens since the last of these, where that is watched.

    Comes before `Progress` and `Finished`, so that a token costs nothing but its count.
    """

    id: int
    tokens: int
    counts: tuple[tuple[int, ...], ...]
    """For each layer, how often each of its experts was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A reply is over: its last event."""

    id: int
    reason: str
    """stop, length, or stopped where someone asked for it."""
    progress: Progress
    token_ids: tuple[int, ...] = ()
    """All that the reply consists of, without the token that ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A reply or a count could not be made: its last event. The model is still there."""

    id: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    id: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """Something that costs time alone, such as a cache that the disk refused."""

    line: str


Event = (
    Loading
    | Loaded
    | LoadFailed
    | Reading
    | Piece
    | Progress
    | Routed
    | Finished
    | Failed
    | Counted
    | Noted
)
