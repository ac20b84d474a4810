"""One reply token by token: what else could have come, and going on from there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from mlx_mistral.live.events import Alternative, Piece
from mlx_mistral.tui.visible import visible

from .figures import probability_text
from .token_lines import level
from .token_text import TokenText

_BAR_CELLS = 20


def token_note(piece: Piece | None, index: int, total: int) -> str:
    """One line about a token: where, what, how likely."""
    if piece is None:
        return "no token yet"
    where = f"token {index + 1:,} of {total:,} · id {piece.token} · '{visible(piece.text)}'"
    if piece.probability is None:
        return f"{where} · probabilities were not watched"
    return f"{where} · {probability_text(piece.probability)}, {level(piece.probability)}"


def alternative_line(alternative: Alternative, is_taken: bool) -> str:
    """A token that could have come, its probability as a number and as a bar."""
    filled = round(_BAR_CELLS * min(max(alternative.probability, 0.0), 1.0))
    bar = "█" * filled + "·" * (_BAR_CELLS - filled)
    mark = "→" if is_taken else " "
    share = probability_text(alternative.probability)
    return f"{mark} {share:>5} {bar} '{visible(alternative.text)}'"


class Alternatives(OptionList):
    """Names its key, which the library's list keeps to itself."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Continue from it"),
    ]


class TokenView(Vertical):
    """Arrows move among tokens, Enter goes to the alternatives, Enter there goes on from one."""

    DEFAULT_CSS = """
    TokenView { height: 1fr; }
    TokenView #token-note { height: 1; color: $text-muted; }
    TokenView #token-alternatives { height: auto; max-height: 7; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
    ]

    class ContinueFrom(Message):
        """A reply is to be made again from `begun`: what it said up to a token, then another."""

        def __init__(self, reply: int, begun: tuple[int, ...]) -> None:
            self.reply = reply
            self.begun = begun
            super().__init__()

    class Closed(Message):
        """The view is no longer wanted."""

    def __init__(self, reply: int, pieces: Iterable[Piece], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._reply = reply
        self._first = list(pieces)
        self._alternatives: tuple[Alternative, ...] = ()

    def compose(self) -> ComposeResult:
        yield TokenText()
        yield Static("", id="token-note", markup=False)
        yield Alternatives(id="token-alternatives", compact=True)

    def on_mount(self) -> None:
        self.show_reply(self._reply, self._first)
        self.query_one(TokenText).focus()

    def show_reply(self, reply: int, pieces: Iterable[Piece]) -> None:
        """Shows another reply."""
        self._reply = reply
        self.query_one(TokenText).replace(pieces)

    def add(self, piece: Piece) -> None:
        """One more token of the reply that is shown; other replies' are left out."""
        if piece.id == self._reply:
            text = self.query_one(TokenText)
            text.add(piece)
            if len(text.pieces) == 1:
                self._describe(0)

    @on(TokenText.Moved)
    def follow(self, event: TokenText.Moved) -> None:
        event.stop()
        self._describe(event.index)

    @on(TokenText.Chosen)
    def choose(self, event: TokenText.Chosen) -> None:
        event.stop()
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = 0
            options.focus()

    @on(OptionList.OptionSelected)
    def go_on(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        text = self.query_one(TokenText)
        said = tuple(piece.token for piece in text.pieces[: text.cursor])
        chosen = self._alternatives[event.option_index]
        self.post_message(self.ContinueFrom(self._reply, (*said, chosen.token)))

    def action_back(self) -> None:
        """From the alternatives to the tokens, from the tokens out."""
        text = self.query_one(TokenText)
        if text.has_focus:
            self.post_message(self.Closed())
        else:
            text.focus()

    def _describe(self, index: int) -> None:
        pieces = self.query_one(TokenText).pieces
        piece = pieces[index] if index < len(pieces) else None
        note = token_note(piece, index, len(pieces))
        self.query_one("#token-note", Static).update(Content(note))
        self._alternatives = piece.alternatives if piece else ()
        options = self.query_one(OptionList)
        options.clear_options()
        for alternative in self._alternatives:
            is_taken = piece is not None and alternative.token == piece.token
            options.add_option(Option(Content(alternative_line(alternative, is_taken))))
