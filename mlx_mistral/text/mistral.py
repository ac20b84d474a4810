"""Tokenizers through mistral-common, whose ids are the reference.

Only what text needs is assembled: image and audio encoders, which the file may announce, are left
out, and with them the imports that they would cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mlx_mistral.text.chat_format import chat_request
from mlx_mistral.text.files import TokenizerFile
from mlx_mistral.text.foreign import as_tokenizer_error
from mlx_mistral.text.stream import StreamDecoder
from mlx_mistral.text.token_ids import checked_id, checked_ids, checked_text

if TYPE_CHECKING:
    from mistral_common.tokens.tokenizers.base import Tokenizer as CommonTokenizer


class Vocabulary(Protocol):
    """What differs between the two kinds of file that mistral-common reads."""

    version: str
    note: str | None

    @property
    def common(self) -> CommonTokenizer: ...

    def stream(self, *, keep_control: bool) -> StreamDecoder: ...

    def piece(self, token_id: int) -> str: ...

    def control_name(self, token_id: int) -> str | None: ...

    def control_id(self, name: str) -> int | None: ...


class MistralTokenizer:
    """A `Tokenizer` whose ids are those of mistral-common for the same file."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises: TokenizerError: the file lacks what its version needs."""
        self._vocabulary = vocabulary
        self._common = vocabulary.common
        with as_tokenizer_error(
            f"the tokenizer is not a complete {vocabulary.version}",
            "check that the file belongs to the model",
        ):
            self._instruct = _Instruct(vocabulary.common)
            self.bos_id = checked_id(self._common.bos_id, self._common.n_words)
            self.eos_ids = frozenset([checked_id(self._common.eos_id, self._common.n_words)])
        self.vocab_size = self._common.n_words

    @property
    def version(self) -> str:
        return self._vocabulary.version

    @property
    def note(self) -> str | None:
        return self._vocabulary.note

    def encode(self, text: str) -> list[int]:
        checked_text(text)
        with as_tokenizer_error("the text cannot be encoded", "shorten or correct it"):
            return self._common.encode(text, bos=False, eos=False)

    def decode(self, token_ids: Iterable[int], *, keep_control: bool = False) -> str:
        ids = checked_ids(token_ids, self.vocab_size)
        if keep_control:
            stream = self._vocabulary.stream(keep_control=True)
            return "".join(map(stream.add, ids)) + stream.finish()
        with as_tokenizer_error("the ids cannot be decoded", "check the tokenizer's file"):
            return self._common.decode(ids)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        with as_tokenizer_error(
            f"the chat cannot be written for tokenizer {self.version}",
            "correct the messages or tools",
        ):
            return self._instruct.chat(chat_request(messages, tools))

    def encode_fim(self, prefix: str, suffix: str) -> list[int]:
        checked_text(prefix)
        checked_text(suffix)
        with as_tokenizer_error(
            f"tokenizer {self.version} cannot fill in the middle",
            "use a model that was trained for it, such as Codestral",
        ):
            if any(self.control_id(name) is None for name in ("[PREFIX]", "[SUFFIX]")):
                raise ValueError("it has no [PREFIX] and [SUFFIX]")
            return self._instruct.fim(prefix, suffix)

    def stream(self, *, keep_control: bool = False) -> StreamDecoder:
        return _CheckedStream(self._vocabulary.stream(keep_control=keep_control), self.vocab_size)

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        return [self._vocabulary.piece(i) for i in checked_ids(token_ids, self.vocab_size)]

    def is_control(self, token_id: int) -> bool:
        return self._vocabulary.control_name(checked_id(token_id, self.vocab_size)) is not None

    def control_id(self, name: str) -> int | None:
        return self._vocabulary.control_id(name)


def load_mistral(file: TokenizerFile) -> MistralTokenizer:
    """Raises: TokenizerError: the file is malformed, or of a version that is not known."""
    vocabulary: Vocabulary
    if file.kind == "tekken":
        from mlx_mistral.text.tekken import TekkenVocabulary

        vocabulary = TekkenVocabulary(file.path)
    else:
        from mlx_mistral.text.spm import SentencePieceVocabulary

        vocabulary = SentencePieceVocabulary(file)
    return MistralTokenizer(vocabulary)


class _Instruct:
    """mistral-common's chat pipeline: validate, normalize, encode, each for one version."""

    def __init__(self, common: CommonTokenizer) -> None:
        from mistral_common.protocol.instruct.normalize import get_normalizer
        from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
        from mistral_common.tokens.tokenizers import instruct

        version = common.version
        self._validator: Any = get_validator(version, mode=ValidationMode.test)
        self._normalizer: Any = get_normalizer(version, common.model_settings_builder)
        self._encoder: Any = getattr(instruct, f"InstructTokenizer{version.value.upper()}")(common)

    def chat(self, request: Any) -> list[int]:
        valid = self._validator.validate_request(request)
        normal = self._normalizer.from_chat_completion_request(valid)
        return list(self._encoder.encode_instruct(normal).tokens)

    def fim(self, prefix: str, suffix: str) -> list[int]:
        from mistral_common.protocol.fim.request import FIMRequest

        return list(self._encoder.encode_fim(FIMRequest(prompt=prefix, suffix=suffix)).tokens)


class _CheckedStream:
    """A stream decoder that refuses ids beyond the vocabulary."""

    def __init__(self, stream: StreamDecoder, vocab_size: int) -> None:
        self._stream = stream
        self._vocab_size = vocab_size

    def add(self, token_id: int) -> str:
        return self._stream.add(checked_id(token_id, self._vocab_size))

    def finish(self) -> str:
        return self._stream.finish()
