"""Text from token ids as they arrive: the concatenated deltas are the full decode, to the byte.

Each decoder below holds back only what later ids can still change, and does a bounded amount of
work per id. None decodes the whole reply again.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Protocol


class StreamDecoder(Protocol):
    """Turns ids into text one by one.

    `"".join(add(i) for i in ids) + finish()` equals `decode(ids)`.
    """

    def add(self, token_id: int) -> str:
        """The text that this id completes; empty while a character is still missing bytes.

        Raises: TokenizerError: the id is not in the vocabulary.
        """

    def finish(self) -> str:
        """The text still held back; bytes that never became a character are U+FFFD.

        The decoder is then as new.
        """


class ByteStream:
    """For byte-level vocabularies (Tekken): every id is a run of bytes or a control token.

    A control token ends the run, as it does in mistral-common's decode.
    """

    def __init__(
        self,
        piece_bytes: Callable[[int], bytes],
        control_name: Callable[[int], str | None],
        *,
        keep_control: bool,
    ) -> None:
        self._piece_bytes = piece_bytes
        self._control_name = control_name
        self._keep_control = keep_control
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        name = self._control_name(token_id)
        if name is None:
            return self._utf8.decode(self._piece_bytes(token_id))
        return self.finish() + (name if self._keep_control else "")

    def finish(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


class SentencePieceStream:
    """For SentencePiece: pieces are text, except the byte pieces `<0x00>` to `<0xFF>`.

    SentencePiece drops the space that opens a text, joins neighbouring byte pieces, and writes
    U+FFFD for every single byte that starts no valid character (Python would write one for the
    whole broken sequence).
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        surface: Callable[[int], str],
        byte_value: Callable[[int], int | None],
        control_name: Callable[[int], str | None],
        *,
        keep_control: bool,
    ) -> None:
        self._decode = decode
        self._surface = surface
        self._byte_value = byte_value
        self._control_name = control_name
        self._keep_control = keep_control
        self._start()

    def add(self, token_id: int) -> str:
        value = self._byte_value(token_id)
        if value is not None:
            self._bytes.append(value)
            return self._written(self._whole_characters())
        text = self._written(self._rest_of_bytes())
        name = self._control_name(token_id)
        if name is not None:
            return text + (name if self._keep_control else "")
        return text + self._written(self._piece_text(token_id))

    def finish(self) -> str:
        text = self._rest_of_bytes()
        self._start()
        return text

    def _start(self) -> None:
        self._bytes = bytearray()
        self._at_start = True
        self._silent: list[int] = []

    def _written(self, text: str) -> str:
        if text:
            self._at_start = False
        return text

    def _piece_text(self, token_id: int) -> str:
        """Until something is written, the library decides what of a leading space stays.

        Only the last silent pieces can matter to it, so the list stays short.
        """
        if not self._at_start:
            return self._surface(token_id)
        self._silent = [*self._silent[-2:], token_id]
        return self._decode(self._silent)

    def _whole_characters(self) -> str:
        """Takes from the held bytes all that no further byte can change."""
        text = ""
        while self._bytes:
            length = _utf8_length(self._bytes[0])
            head = self._bytes[:length]
            if len(head) < length and all(_is_trail(byte) for byte in head[1:]):
                break
            text += self._take_character(length)
        return text

    def _rest_of_bytes(self) -> str:
        text = ""
        while self._bytes:
            text += self._take_character(_utf8_length(self._bytes[0]))
        return text

    def _take_character(self, length: int) -> str:
        try:
            character = self._bytes[:length].decode("utf-8")
        except UnicodeDecodeError:
            character, length = "\ufffd", 1
        del self._bytes[:length]
        return character


class WindowStream:
    """For decoders known only by their decode function.

    Decodes a window that starts at the last place where text was complete, and gives out what
    grew. Byte pieces wait for the end of their run: such decoders judge a run as a whole.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        is_byte_piece: Callable[[int], bool],
        is_silent: Callable[[int], bool],
    ) -> None:
        self._decode = decode
        self._is_byte_piece = is_byte_piece
        self._is_silent = is_silent
        self._ids: list[int] = []
        self._window = 0  # where the decoded window starts
        self._given = 0  # ids whose text was given out
        self._written = 0  # characters given out

    def add(self, token_id: int) -> str:
        if self._is_silent(token_id):
            return ""
        self._ids.append(token_id)
        if self._is_byte_piece(token_id):
            return ""
        before = self._decode(self._ids[self._window : self._given])
        now = self._decode(self._ids[self._window :])
        if now.endswith("\ufffd") or len(now) <= len(before) or not now.startswith(before):
            return ""
        self._window, self._given = self._given, len(self._ids)
        self._written += len(now) - len(before)
        return now[len(before) :]

    def finish(self) -> str:
        rest = self._decode(self._ids)[self._written :]
        self._ids.clear()
        self._window = self._given = self._written = 0
        return rest


def _utf8_length(lead: int) -> int:
    """How many bytes a character that starts with `lead` has; 1 for a byte that starts none."""
    if lead & 0xE0 == 0xC0:
        return 2
    if lead & 0xF0 == 0xE0:
        return 3
    if lead & 0xF8 == 0xF0:
        return 4
    return 1


def _is_trail(byte: int) -> bool:
    return byte & 0xC0 == 0x80
