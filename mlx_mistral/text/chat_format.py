"""OpenAI-style messages and tools, checked, as the request that mistral-common encodes.

The checks here name the message that is wrong; what depends on the tokenizer's version (tool call
ids, the order of roles, thinking) is mistral-common's to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import TokenizerError

if TYPE_CHECKING:
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

Message = Mapping[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_MEDIA = ("image", "image_url", "input_image", "input_audio", "audio_url", "video_url")
_REASONING = ("reasoning", "reasoning_content")


def chat_request(
    messages: Sequence[Message], tools: Sequence[Message] | None
) -> ChatCompletionRequest[Any]:
    """The mistral-common request for `messages` and `tools`; the last one may stay open.

    Raises: TokenizerError: a message or tool has not the shape of OpenAI's chat API.
    """
    from mistral_common.protocol.instruct.request import ChatCompletionRequest

    check_messages(messages)
    check_tools(tools)
    # Results may come without an id (v2 knows only names); mistral-common reads the key anyway.
    plain = [
        {"tool_call_id": None, **message} if message["role"] == "tool" else dict(message)
        for message in messages
    ]
    return ChatCompletionRequest.from_openai(
        messages=plain,
        tools=[dict(tool) for tool in tools] if tools is not None else None,
        continue_final_message=is_open(messages),
    )


def is_open(messages: Sequence[Message]) -> bool:
    """Whether the last message is an assistant's that the model shall continue."""
    return messages[-1].get("prefix") is True


def check_messages(messages: Sequence[Message]) -> None:
    """Raises: TokenizerError: naming the first message that is malformed."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TokenizerError(
            f"messages is a {type(messages).__name__}; pass a list of "
            '{"role": ..., "content": ...} objects'
        )
    if not messages:
        raise TokenizerError("messages is empty; a chat needs at least one message")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, Mapping):
            raise TokenizerError(
                f'{where} is a {type(message).__name__}; write {{"role": "user", "content": "…"}}'
            )
        role = message.get("role")
        if role not in _ROLES:
            raise TokenizerError(
                f"{where} has the role {_shown(role)}; use system, user, assistant or tool"
            )
        _check_content(message, where)
        _check_tool_calls(message, where)
        _check_prefix(message, where, is_last=index == len(messages) - 1)
        if role == "tool" and not isinstance(message.get("tool_call_id"), str | None):
            raise TokenizerError(
                f"{where}.tool_call_id is not a string; repeat the id of the tool call"
            )


def check_tools(tools: Sequence[Message] | None) -> None:
    """Raises: TokenizerError: naming the first tool that is malformed."""
    if tools is None:
        return
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise TokenizerError(f"tools is a {type(tools).__name__}; pass a list of tool objects")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping):
            raise TokenizerError(
                f'{where} has no "function" object; '
                'write {"type": "function", "function": {"name": …, "parameters": …}}'
            )
        if not isinstance(function.get("name"), str):
            raise TokenizerError(f"{where}.function has no name; give it one")
        if not isinstance(function.get("parameters"), Mapping | None):
            raise TokenizerError(
                f"{where}.function.parameters is not an object; give a JSON schema"
            )


def _check_content(message: Message, where: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    if content is None:
        may_be_silent = message.get("role") == "assistant" and any(
            message.get(key) for key in ("tool_calls", *_REASONING)
        )
        if not may_be_silent:
            raise TokenizerError(f"{where} has no content; give it a text")
        return
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise TokenizerError(
            f"{where}.content is a {type(content).__name__}; give a text or a list of text parts"
        )
    for index, part in enumerate(content):
        _check_part(part, f"{where}.content[{index}]")


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _MEDIA:
        raise TokenizerError(
            f"{where} is of type {kind!r}, and only text can be read here; send text parts alone"
        )
    if kind not in ("text", "thinking"):
        raise TokenizerError(f'{where} is not a text part; write {{"type": "text", "text": "…"}}')
    if kind == "text" and not isinstance(part.get("text"), str):
        raise TokenizerError(f"{where} has no text; give it one")


def _check_tool_calls(message: Message, where: str) -> None:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if isinstance(calls, str | bytes | Mapping) or not isinstance(calls, Sequence):
        raise TokenizerError(f"{where}.tool_calls is a {type(calls).__name__}; pass a list")
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise TokenizerError(
                f"{where}.tool_calls[{index}] names no function; "
                'write {"id": …, "function": {"name": …, "arguments": …}}'
            )


def _check_prefix(message: Message, where: str, *, is_last: bool) -> None:
    prefix = message.get("prefix")
    if prefix is None or prefix is False:
        return
    if prefix is not True:
        raise TokenizerError(f"{where}.prefix is {_shown(prefix)}; use true or false")
    if message.get("role") != "assistant" or not is_last:
        raise TokenizerError(
            f"{where}.prefix is true, which only the last message may have, from the assistant; "
            "remove it or move the message to the end"
        )


def _shown(value: object) -> str:
    return repr(value)[:60]
