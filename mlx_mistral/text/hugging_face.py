"""The fallback: tokenizer.json through `tokenizers`, with the folder's own chat template.

A template writes control tokens as text. So that control text typed by a user stays text, such
text is replaced by private characters before rendering, and put back after the rendered chat has
been cut at its control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from mlx_mistral.errors import TokenizerError
from mlx_mistral.text.chat_format import check_messages, check_tools, is_open
from mlx_mistral.text.foreign import as_tokenizer_error
from mlx_mistral.text.hugging_face_files import Settings, read_settings
from mlx_mistral.text.stream import StreamDecoder, WindowStream
from mlx_mistral.text.template import ChatTemplate
from mlx_mistral.text.template_input import plain_messages, private_characters, replace_strings
from mlx_mistral.text.token_ids import checked_id, checked_ids, checked_text

# Stands before a part of a text, so that the part is not taken for a text's beginning.
_ANCHOR = "\U0010fffdpart\U0010fffd"
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_CONTROL_SHAPE = re.compile(r"\[/?[A-Z_]+\]|<[^<>\s]+>")


def load_hugging_face(path: Path) -> HuggingFaceTokenizer:
    """Raises: TokenizerError: tokenizer.json or a file beside it is malformed."""
    with as_tokenizer_error(
        f"{path.name} is not a tokenizer, in {path.parent}", "download it again"
    ):
        rust = RustTokenizer.from_file(str(path))
    return HuggingFaceTokenizer(rust, read_settings(path.parent), path)


class HuggingFaceTokenizer:
    """A `Tokenizer` over tokenizer.json."""

    version = "tokenizer.json"

    def __init__(self, rust: RustTokenizer, settings: Settings, path: Path) -> None:
        """Raises: TokenizerError: BOS or EOS is unknown."""
        self._rust = rust
        self._settings = settings
        self._templates: dict[str, ChatTemplate] = {}
        self.note = (
            f"no tekken.json or tokenizer.model in {path.parent}: "
            "using tokenizer.json and its chat template, which can differ from Mistral's own"
        )
        self._pieces = {token_id: piece for piece, token_id in rust.get_vocab().items()}
        self.vocab_size = max(self._pieces, default=-1) + 1
        rust.add_special_tokens(_unmarked_control_tokens(rust, settings.templates.values()))
        self._control = {
            token_id: token.content
            for token_id, token in rust.get_added_tokens_decoder().items()
            if token.special
        }
        self._control_ids = {name: token_id for token_id, name in self._control.items()}
        self.bos_id = self._required_id("bos", settings.bos, path)
        self.eos_ids = frozenset(settings.eos_ids) | {self._required_id("eos", settings.eos, path)}
        rust.add_tokens([AddedToken(_ANCHOR, special=False, normalized=False)])
        unknown = getattr(rust.model, "unk_token", None)
        self._unknown_id = self._control_ids.get(unknown) if unknown is not None else None
        names = sorted(self._control_ids, key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def encode(self, text: str) -> list[int]:
        checked_text(text)
        with as_tokenizer_error("the text cannot be encoded", "shorten or correct it"):
            return self._encode_text(text, opens=True)

    def decode(self, token_ids: Iterable[int], *, keep_control: bool = False) -> str:
        ids = checked_ids(token_ids, self.vocab_size)
        with as_tokenizer_error("the ids cannot be decoded", "check tokenizer.json"):
            return self._rust.decode(ids, skip_special_tokens=not keep_control)

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        check_messages(messages)
        check_tools(tools)
        with as_tokenizer_error(
            "the chat template cannot write this chat", "correct the messages or tools"
        ):
            return self._encode_rendered(messages, tools)

    def encode_fim(self, prefix: str, suffix: str) -> list[int]:
        checked_text(prefix)
        checked_text(suffix)
        marks = [self.control_id(name) for name in ("[SUFFIX]", "[PREFIX]")]
        if marks[0] is None or marks[1] is None:
            raise TokenizerError(
                "tokenizer.json has no [PREFIX] and [SUFFIX] to fill in the middle; "
                "use a model that was trained for it, such as Codestral"
            )
        with as_tokenizer_error("the text cannot be encoded", "shorten or correct it"):
            return [
                self.bos_id,
                marks[0],
                *self._encode_without_leading_space(suffix),
                marks[1],
                *self._encode_text(prefix, opens=True),
            ]

    def stream(self, *, keep_control: bool = False) -> StreamDecoder:
        def is_silent(token_id: int) -> bool:
            checked_id(token_id, self.vocab_size)
            return not keep_control and token_id in self._control

        def is_byte_piece(token_id: int) -> bool:
            return _BYTE_PIECE.fullmatch(self._pieces.get(token_id, "")) is not None

        def decode(ids: list[int]) -> str:
            return self._rust.decode(ids, skip_special_tokens=not keep_control)

        return WindowStream(decode, is_byte_piece, is_silent)

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        return [self._piece(i) for i in checked_ids(token_ids, self.vocab_size)]

    def is_control(self, token_id: int) -> bool:
        return checked_id(token_id, self.vocab_size) in self._control

    def control_id(self, name: str) -> int | None:
        return self._control_ids.get(name)

    def _required_id(self, kind: str, token: str | None, path: Path) -> int:
        token_id = self._rust.token_to_id(token) if token is not None else None
        if token_id is None:
            raise TokenizerError(
                f"the {kind.upper()} token is unknown, in {path.parent}; "
                f'name it in tokenizer_config.json as "{kind}_token"'
            )
        return token_id

    def _piece(self, token_id: int) -> str:
        piece = self._pieces.get(token_id, "")
        if token_id in self._control or "▁" in piece or _BYTE_PIECE.fullmatch(piece):
            return piece
        text = self._rust.decode([token_id], skip_special_tokens=False)
        return piece if "\ufffd" in text or not text else text

    def _encode_rendered(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> list[int]:
        source = self._settings.template(with_tools=tools is not None)
        data = {"messages": plain_messages(messages), "tools": tools}
        names = list(self._control_ids)
        end, *stand_ins = private_characters(len(names) + 1, [source, data])
        hidden = dict(zip(names, stand_ins, strict=True))
        data = replace_strings(
            data, lambda text: self._control_text.sub(lambda match: hidden[match[0]], text)
        )
        if is_open(messages):
            data["messages"][-1]["content"] += end
        rendered = self._template(source).render(
            {
                **self._settings.special_tokens,
                **data,
                "add_generation_prompt": not is_open(messages),
                "continue_final_message": is_open(messages),
            }
        )
        if is_open(messages):
            rendered, found, _ = rendered.rpartition(end)
            if not found:
                raise ValueError("the template leaves out the message that was to be continued")
        shown = {ord(stand_in): name for name, stand_in in hidden.items()}
        if rendered.translate(shown) == rendered:
            ids = self._rust.encode(rendered, add_special_tokens=False).ids
            written = [self._control_ids[text] for text in self._control_text.findall(rendered)]
            if self._control_in(ids) == [i for i in written if i != self._unknown_id]:
                return ids
        return self._encode_parts(rendered, shown)

    def _encode_parts(self, rendered: str, shown: Mapping[int, str]) -> list[int]:
        """Encodes around the control tokens, each part of text as text alone."""
        ids: list[int] = []
        position = 0
        for match in self._control_text.finditer(rendered):
            part = rendered[position : match.start()].translate(shown)
            ids += self._encode_text(part, opens=position == 0)
            ids.append(self._control_ids[match[0]])
            position = match.end()
        return ids + self._encode_text(rendered[position:].translate(shown), opens=position == 0)

    def _template(self, source: str) -> ChatTemplate:
        if source not in self._templates:
            self._templates[source] = ChatTemplate(source)
        return self._templates[source]

    def _control_in(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in self._control and i != self._unknown_id]

    def _encode_text(self, text: str, *, opens: bool) -> list[int]:
        """Ids of `text` with no control token read from it; `opens`: nothing stands before it.

        Where the vocabulary builds a control token even from plain text, its text is cut in two.
        """
        ids = self._encode_plainly(text, opens=opens)
        if not self._control_in(ids):
            return ids
        cuts = [match.start() + 1 for match in self._control_text.finditer(text)]
        ids = []
        for start, end in pairwise([0, *cuts, len(text)]):
            ids += self._encode_plainly(text[start:end], opens=opens and start == 0)
        if self._control_in(ids):
            raise ValueError("the vocabulary makes a control token of this text")
        return ids

    def _encode_plainly(self, text: str, *, opens: bool) -> list[int]:
        if not text:
            return []
        with self._control_text_as_text():
            if opens:
                return self._rust.encode(text, add_special_tokens=False).ids
            ids = self._rust.encode(_ANCHOR + text, add_special_tokens=False).ids
        return ids[1:]  # the anchor is one id

    def _encode_without_leading_space(self, text: str) -> list[int]:
        """Encodes after a sign that is cut off again, as mistral-common does for a suffix."""
        with self._control_text_as_text():
            encoding = self._rust.encode("☺" + text, add_special_tokens=False)
        return [i for i, (_, end) in zip(encoding.ids, encoding.offsets, strict=True) if end > 1]

    @contextmanager
    def _control_text_as_text(self) -> Iterator[None]:
        self._rust.encode_special_tokens = True
        try:
            yield
        finally:
            self._rust.encode_special_tokens = False


def _unmarked_control_tokens(rust: RustTokenizer, templates: Collection[str]) -> list[AddedToken]:
    """Added tokens that a template writes, although tokenizer.json does not call them special."""
    return [
        AddedToken(token.content, special=True, normalized=False)
        for token in rust.get_added_tokens_decoder().values()
        if not token.special
        and _CONTROL_SHAPE.fullmatch(token.content)
        and any(token.content in template for template in templates)
    ]
