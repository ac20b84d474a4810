"""What a tokenizer is here, and how a folder becomes one. Importing this loads no library."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mlx_mistral.text.files import find_tokenizer
from mlx_mistral.text.stream import StreamDecoder


class Tokenizer(Protocol):
    """Text and chats to token ids and back.

    Text is only ever text: `"[INST]"` or `"</s>"` in it never becomes a control token. Only
    `encode_chat` and `encode_fim` place those.
    Every method raises TokenizerError, with one line, for what it cannot do.
    """

    @property
    def version(self) -> str:
        """`"v1"`, `"v3"`, `"v3-tekken"`, … or `"tokenizer.json"`."""

    @property
    def note(self) -> str | None:
        """One line worth telling on stderr about how the folder was read, if any."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a reply."""

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS and EOS."""

    def decode(self, token_ids: Iterable[int], *, keep_control: bool = False) -> str:
        """The text of ids, in which bytes that are no UTF-8 are U+FFFD.

        Control tokens are left out; with `keep_control` they stand there by name, so that what
        lies between `[THINK]` and `[/THINK]`, or after `[TOOL_CALLS]`, can be told apart.
        """

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """The ids of a chat in the model's format, BOS included.

        Messages and tools are OpenAI-style dicts. A last assistant message with
        `"prefix": True` stays open for the model to continue.
        """

    def encode_fim(self, prefix: str, suffix: str) -> list[int]:
        """The ids that ask the model for what stands between `prefix` and `suffix`."""

    def stream(self, *, keep_control: bool = False) -> StreamDecoder:
        """A decoder that takes one id at a time; `keep_control` as in `decode`."""

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """One readable string per id: its text, a control token's name, or bytes as `<0xE2>`."""

    def is_control(self, token_id: int) -> bool:
        """Whether this id is a control token, which no text encodes to."""

    def control_id(self, name: str) -> int | None:
        """The id of a control token, such as `"[TOOL_CALLS]"`; None where there is none."""


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a model folder: tekken.json, else tokenizer.model*, else tokenizer.json.

    The first two are read by mistral-common, whose ids are the reference. The last is a fallback
    with the folder's own chat template, and `.note` says so.
    Raises: TokenizerError: there is none, or it is malformed.
    """
    file = find_tokenizer(folder)
    if file.kind == "hugging_face":
        from mlx_mistral.text.hugging_face import load_hugging_face

        return load_hugging_face(file.path)
    from mlx_mistral.text.mistral import load_mistral

    return load_mistral(file)
