"""SentencePiece files, v1 to v7, as mistral-common reads them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import TokenizerError
from mlx_mistral.text.files import TokenizerFile
from mlx_mistral.text.foreign import as_tokenizer_error
from mlx_mistral.text.stream import SentencePieceStream, StreamDecoder

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

_V2_CONTROL = (
    *("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)
_V7_CONTROL = (*_V2_CONTROL, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]")


class SentencePieceVocabulary:
    """The pieces of one SentencePiece file."""

    def __init__(self, file: TokenizerFile) -> None:
        """Raises: TokenizerError: the file is malformed or lacks its version's control tokens."""
        name = file.path.name
        self.note: str | None = None
        with as_tokenizer_error(
            f"{name} is not a SentencePiece model, in {file.path.parent}", "download it again"
        ):
            self.common = _read(file.path, file.version or "v1")
            self._model: Any = self.common._model
            self._control = {i: self._model.id_to_piece(i) for i in self.common.special_ids}
            self._control_ids = {piece: i for i, piece in self._control.items()}
            if file.version is None and (version := self._version_inside()) != "v1":
                self.common = _read(file.path, version)
                self.note = f"{name} carries the control tokens of {version}; read as {version}"
            self._anchor = self._visible_id()
            self._anchor_length = len(self._model.decode([self._anchor]))
        self.version = str(self.common.version.value)
        self._check_control_tokens(name)
        self._bytes = {i: int(self._model.id_to_piece(i)[3:5], 16) for i in self._byte_ids()}
        self._surface = lru_cache(maxsize=None)(self._text_after_other_text)

    def stream(self, *, keep_control: bool) -> StreamDecoder:
        return SentencePieceStream(
            self._model.decode,
            self._surface,
            self._bytes.get,
            self._control.get,
            keep_control=keep_control,
        )

    def piece(self, token_id: int) -> str:
        return str(self._model.id_to_piece(token_id))

    def control_name(self, token_id: int) -> str | None:
        return self._control.get(token_id)

    def control_id(self, name: str) -> int | None:
        return self._control_ids.get(name)

    def _version_inside(self) -> str:
        """The version that a file without one in its name was made for.

        mistral-common takes every bare `tokenizer.model` for v1, and would then write `[INST]` as
        text for a model that was trained on the control token.
        """
        if self.control_id("[SYSTEM_PROMPT]") is not None:
            return "v7"
        if self.control_id("[INST]") is None:
            return "v1"
        return "v3" if self.control_id("[SUFFIX]") is not None else "v2"

    def _check_control_tokens(self, name: str) -> None:
        """SentencePiece answers a missing piece with the unknown id, silently."""
        number = int(self.version[1:])
        needed = () if number < 2 else _V2_CONTROL if number < 7 else _V7_CONTROL
        missing = [piece for piece in needed if self.control_id(piece) is None]
        if missing:
            raise TokenizerError(
                f"the control token {missing[0]} of {self.version} is missing, in {name}; "
                "check that the file's version suffix is right"
            )

    def _byte_ids(self) -> list[int]:
        pieces = enumerate(self.common.vocab())
        return [i for i, piece in pieces if piece.startswith("<0x") and self._model.IsByte(i)]

    def _visible_id(self) -> int:
        """An id with a text, to stand before another in `_text_after_other_text`."""
        for token_id in (self.common.unk_id, *range(self.common.n_words)):
            if not self._model.IsByte(token_id) and self._model.decode([token_id]).strip():
                return int(token_id)
        raise ValueError("no piece has a text")

    def _text_after_other_text(self, token_id: int) -> str:
        return str(self._model.decode([self._anchor, token_id])[self._anchor_length :])


def _read(path: Any, version: str) -> SentencePieceTokenizer:
    from mistral_common.tokens.tokenizers.base import TokenizerVersion
    from mistral_common.tokens.tokenizers.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer(path, tokenizer_version=TokenizerVersion(version))
