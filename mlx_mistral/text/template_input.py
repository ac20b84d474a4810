"""What a chat template is given: messages as templates expect them, with control text hidden."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

_PRIVATE_START, _PRIVATE_END = 0xF0000, 0xFFFFD


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies of the messages: text parts joined, arguments of tool calls as objects.

    Templates of text models concatenate strings; OpenAI's API sends arguments as a JSON string.
    """
    plain = []
    for message in messages:
        copy = {key: value for key, value in message.items() if key != "prefix"}
        if copy["role"] == "developer":
            copy["role"] = "system"
        content = copy.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            if any(part["type"] != "text" for part in content):
                raise ValueError("thinking parts are not supported with tokenizer.json")
            copy["content"] = "\n\n".join(part["text"] for part in content)
        if copy.get("tool_calls"):
            copy["tool_calls"] = [_with_parsed_arguments(call) for call in copy["tool_calls"]]
        plain.append(copy)
    return plain


def _with_parsed_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):
            function["arguments"] = json.loads(arguments)
    return {**call, "function": function}


def private_characters(count: int, used: Any) -> list[str]:
    """`count` characters of private use that occur nowhere in the strings of `used`."""
    taken = set(_all_text(used))
    free = (chr(code) for code in range(_PRIVATE_START, _PRIVATE_END) if chr(code) not in taken)
    found = [character for character, _ in zip(free, range(count), strict=False)]
    if len(found) < count:
        raise ValueError("the chat uses too many private characters")
    return found


def _all_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(_all_text(key) + _all_text(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "".join(map(_all_text, value))
    return ""


def replace_strings(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every string in it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            replace_strings(key, change): replace_strings(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [replace_strings(item, change) for item in value]
    return value
