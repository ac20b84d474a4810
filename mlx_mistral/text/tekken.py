"""Tekken files: byte-level BPE over base64 tokens, as mistral-common reads them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from mistral_common.tokens.tokenizers.base import TokenizerVersion
from mistral_common.tokens.tokenizers.model_settings_builder import ModelSettingsBuilder
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from mlx_mistral.text.foreign import as_tokenizer_error
from mlx_mistral.text.stream import ByteStream, StreamDecoder

_SMALLEST_VOCABULARY = 256  # the single bytes
_MOST_CONTROL_TOKENS = 100_000


class TekkenVocabulary:
    """The tokens of one tekken.json."""

    note: str | None = None

    def __init__(self, path: Path) -> None:
        """Raises: TokenizerError: the file is malformed or of an unknown version."""
        with as_tokenizer_error(
            f"{path.name} is not a Tekken tokenizer, in {path.parent}", "download it again"
        ):
            self.common = _read(path)
            self._control = {i: self.common.id_to_piece(i) for i in self.common.special_ids}
        self.version = f"{self.common.version.value}-tekken"
        self._control_ids = {name: token_id for token_id, name in self._control.items()}
        self._piece_bytes = lru_cache(maxsize=None)(self.common.id_to_byte_piece)

    def stream(self, *, keep_control: bool) -> StreamDecoder:
        return ByteStream(self._piece_bytes, self._control.get, keep_control=keep_control)

    def piece(self, token_id: int) -> str:
        name = self._control.get(token_id)
        if name is not None:
            return name
        data = self._piece_bytes(token_id)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)

    def control_name(self, token_id: int) -> str | None:
        return self._control.get(token_id)

    def control_id(self, name: str) -> int | None:
        return self._control_ids.get(name)


class _QuickTekkenizer(Tekkenizer):
    """A Tekkenizer that skips decoding its 131072 pieces one by one, half of its loading time.

    The list it would fill is read by its `vocab()` alone, which is of no use here.
    """

    _built = False

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._built = True

    def id_to_piece(self, token_id: int) -> str:
        return super().id_to_piece(token_id) if self._built else ""


def _read(path: Path) -> Tekkenizer:
    """What `Tekkenizer.from_file` does for text, with sizes checked before they are used.

    Source: mistral-common, tokens/tokenizers/tekken.py.
    """
    content = json.loads(path.read_bytes())
    config, vocab = content["config"], content["vocab"]
    version = TokenizerVersion(config["version"])
    special_tokens = content.get("special_tokens")
    if special_tokens is None:
        if version > TokenizerVersion.v7:
            raise ValueError(f"special_tokens is missing, which {version.value} needs")
        special_tokens = list(Tekkenizer.DEPRECATED_SPECIAL_TOKENS)
    _check_sizes(config, vocab, special_tokens)
    settings = content.get("model_settings_builder")
    return _QuickTekkenizer(
        vocab=vocab,
        special_tokens=special_tokens,
        pattern=config["pattern"],
        vocab_size=config["default_vocab_size"],
        num_special_tokens=config["default_num_special_tokens"],
        version=version,
        name=path.stem,
        model_settings_builder=ModelSettingsBuilder.model_validate(settings) if settings else None,
        _path=path,
    )


def _check_sizes(config: dict[str, Any], vocab: Any, special_tokens: Any) -> None:
    if not isinstance(vocab, list) or not isinstance(special_tokens, list):
        raise ValueError("vocab and special_tokens must be lists")
    size, num_special = config["default_vocab_size"], config["default_num_special_tokens"]
    if type(size) is not int or type(num_special) is not int:
        raise ValueError("default_vocab_size and default_num_special_tokens must be integers")
    if not len(special_tokens) <= num_special <= _MOST_CONTROL_TOKENS:
        raise ValueError(f"default_num_special_tokens of {num_special} cannot be")
    if not _SMALLEST_VOCABULARY <= size - num_special <= len(vocab):
        raise ValueError(
            f"default_vocab_size of {size} does not fit {len(vocab)} tokens and {num_special} more"
        )
    ranks = {token["rank"] for token in special_tokens}
    if ranks != set(range(len(special_tokens))):
        raise ValueError("the special tokens are not numbered from 0 without gaps")
