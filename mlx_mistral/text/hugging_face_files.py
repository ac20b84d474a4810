"""The files beside tokenizer.json: special tokens, ids that end a reply, chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_mistral.errors import TokenizerError
from mlx_mistral.text.foreign import as_tokenizer_error

_LARGEST_FILE_BYTES = 32 * 1024 * 1024
_TOKEN_KEYS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the folder says about its tokenizer, beyond tokenizer.json."""

    special_tokens: Mapping[str, str]  # "bos_token" -> "<s>", for the template
    eos_ids: frozenset[int]  # from generation_config.json
    templates: Mapping[str, str]  # by name; "default" and perhaps "tool_use"

    @property
    def bos(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos(self) -> str | None:
        return self.special_tokens.get("eos_token")

    def template(self, *, with_tools: bool) -> str:
        """The template for a chat, the one for tools where there are tools and such a template.

        Raises: TokenizerError: the folder has none.
        """
        if with_tools and "tool_use" in self.templates:
            return self.templates["tool_use"]
        if "default" in self.templates:
            return self.templates["default"]
        raise TokenizerError(
            "there is no chat template beside tokenizer.json; add chat_template.jinja, "
            "or pass the prompt raw"
        )


def read_settings(folder: Path) -> Settings:
    """Raises: TokenizerError: a file is malformed."""
    tokens = {**_read_json(folder / "special_tokens_map.json")}
    config = _read_json(folder / "tokenizer_config.json")
    tokens.update({key: config[key] for key in _TOKEN_KEYS if config.get(key) is not None})
    special_tokens = {
        key: content for key in _TOKEN_KEYS if isinstance(content := _content(tokens.get(key)), str)
    }
    return Settings(
        special_tokens=special_tokens,
        eos_ids=_ids(_read_json(folder / "generation_config.json").get("eos_token_id")),
        templates=_read_templates(folder, config),
    )


def _read_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """A file of its own wins over the key in tokenizer_config.json."""
    templates: dict[str, str] = {}
    given = config.get("chat_template")
    if given is None:
        given = _read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(given, str):
        templates["default"] = given
    elif isinstance(given, list):
        for entry in given:
            if isinstance(entry, Mapping) and isinstance(entry.get("template"), str):
                templates[str(entry.get("name"))] = entry["template"]
    path = folder / "chat_template.jinja"
    if path.is_file():
        with as_tokenizer_error(f"{path.name} cannot be read, in {folder}", "download it again"):
            templates["default"] = _read_bounded(path).decode("utf-8")
    return templates


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with as_tokenizer_error(f"{path.name} is not JSON, in {path.parent}", "download it again"):
        content = json.loads(_read_bounded(path))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content


def _read_bounded(path: Path) -> bytes:
    if path.stat().st_size > _LARGEST_FILE_BYTES:
        raise ValueError(f"{path.stat().st_size} bytes are too many")
    return path.read_bytes()


def _content(token: Any) -> Any:
    """A special token is written as a string, or as an object with flags."""
    return token.get("content") if isinstance(token, Mapping) else token


def _ids(value: Any) -> frozenset[int]:
    values = value if isinstance(value, list) else [value]
    return frozenset(i for i in values if type(i) is int and i >= 0)
