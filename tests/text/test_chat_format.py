"""A chat that cannot be encoded is refused with one line that names what is wrong."""

from __future__ import annotations

import pytest

from mlx_mistral.errors import TokenizerError

USER = {"role": "user", "content": "Hi"}
CALL = {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}}


def image(kind):
    return {
        "role": "user",
        "content": [{"type": kind, kind: {"url": "data:image/png;base64,AA=="}}],
    }


MALFORMED = {
    "text for messages": ("Hi", r"messages is a str"),
    "one message alone": (USER, r"messages is a dict"),
    "no list": (None, r"messages is a NoneType"),
    "no message": ([], r"messages is empty"),
    "no object": (["Hi"], r"messages\[0\] is a str"),
    "unknown role": ([USER, {"role": "bot", "content": "x"}], r"messages\[1\] has the role 'bot'"),
    "unhashable role": ([{"role": ["user"], "content": "x"}], r"messages\[0\] has the role"),
    "no role": ([{"content": "x"}], r"messages\[0\] has the role None"),
    "no content": ([{"role": "user"}], r"messages\[0\] has no content"),
    "silent assistant": ([USER, {"role": "assistant"}, USER], r"messages\[1\] has no content"),
    "number": ([{"role": "user", "content": 5}], r"messages\[0\]\.content is a int"),
    "object": ([{"role": "user", "content": {"text": "x"}}], r"content is a dict"),
    "part without text": ([{"role": "user", "content": [{"type": "text"}]}], r"has no text"),
    "text as part": ([{"role": "user", "content": ["x"]}], r"content\[0\] is not a text part"),
    "image": ([image("image_url")], r"content\[0\] is of type 'image_url', and only text"),
    "audio": ([image("input_audio")], r"content\[0\] is of type 'input_audio', and only text"),
    "calls": ([USER, {"role": "assistant", "tool_calls": {"a": 1}}], r"tool_calls is a dict"),
    "call": ([USER, {"role": "assistant", "tool_calls": [{"id": "x"}]}], r"tool_calls\[0\] names"),
    "tool id": (
        [{"role": "tool", "content": "x", "tool_call_id": 5}],
        r"tool_call_id is not a str",
    ),
    "prefix": ([USER, {"role": "assistant", "content": "x", "prefix": "yes"}], r"prefix is 'yes'"),
    "early prefix": (
        [USER, {"role": "assistant", "content": "x", "prefix": True}, USER],
        r"messages\[1\]\.prefix is true, which only the last",
    ),
    "user prefix": ([{**USER, "prefix": True}], r"messages\[0\]\.prefix is true, which only the"),
    # What mistral-common has to say.
    "last": ([USER, {"role": "assistant", "content": "x"}], r"Expected last role User or Tool"),
    "first": ([{"role": "assistant", "content": "x"}], r"must start with a user message"),
    "order": (
        [USER, {"role": "tool", "content": "x", "tool_call_id": "abcdefghi"}],
        r"role 'tool'",
    ),
    "call id": (
        [USER, {"role": "assistant", "tool_calls": [{**CALL, "id": "x"}]}, USER],
        r"Tool call id was x but must be",
    ),
    "no call id": (
        [USER, {"role": "assistant", "tool_calls": [{"function": CALL["function"]}]}, USER],
        r"Tool call id 'null'",
    ),
    "function name": (
        [
            USER,
            {
                "role": "assistant",
                "tool_calls": [{**CALL, "function": {"name": "a b", "arguments": "{}"}}],
            },
            USER,
        ],
        r"Function name was a b",
    ),
    "no result id": (
        [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "x"}],
        r"Tool call id has to be defined",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_chat_is_refused_in_one_line(ours, case):
    messages, expected = MALFORMED[case]
    with pytest.raises(TokenizerError, match=expected) as caught:
        ours("v3").encode_chat(messages)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ({"type": "function"}, r"tools is a dict"),
        (["f"], r"tools\[0\] has no \"function\" object"),
        (
            [{"type": "function", "function": {"parameters": {}}}],
            r"tools\[0\]\.function has no name",
        ),
        ([{"function": {"name": "f", "parameters": [1]}}], r"tools\[0\]\.function\.parameters"),
        ([{"function": {"name": "f", "parameters": {"type": "nonsense"}}}], r"Invalid tool schema"),
        ([{"function": {"name": "a b", "parameters": {}}}], r"Function name was a b"),
        ([{"type": "retrieval", "function": {"name": "f", "parameters": {}}}], r"type: .*function"),
    ],
)
def test_a_malformed_tool_is_refused_in_one_line(ours, tools, expected):
    with pytest.raises(TokenizerError, match=expected) as caught:
        ours("v3").encode_chat([USER], tools)
    assert "\n" not in str(caught.value)


def test_what_a_version_cannot_say_is_refused(ours):
    thought = [USER, {"role": "assistant", "content": "x", "reasoning": "hm"}, USER]
    with pytest.raises(TokenizerError, match="tokenizer v3"):
        ours("v3").encode_chat(thought)
    with pytest.raises(TokenizerError, match="Tools not implemented for tokenizer V1"):
        ours("v1").encode_chat([USER, {"role": "assistant", "tool_calls": [CALL]}, USER])


def test_json_too_deep_to_read_is_refused(ours):
    deep = {"role": "tool", "tool_call_id": "abcdefghi", "content": "[" * 100_000}
    with pytest.raises(TokenizerError, match="cannot be written"):
        ours("v3").encode_chat([USER, {"role": "assistant", "tool_calls": [CALL]}, deep])


@pytest.mark.parametrize("bad", [5, None, b"text", ["a"]])
def test_only_text_is_encoded(ours, bad):
    for use in (
        lambda: ours("v3").encode(bad),
        lambda: ours("v3").encode_fim(bad, "x"),
        lambda: ours("v3").encode_fim("x", bad),
    ):
        with pytest.raises(TokenizerError, match="pass a str"):
            use()


def test_text_that_a_tokenizer_cannot_take_is_refused(ours):
    with pytest.raises(TokenizerError, match=r"^the text cannot be encoded \(.*\); [^\n]*$"):
        ours("v3").encode("half a pair: \ud800")
    with pytest.raises(TokenizerError, match=r"^the text cannot be encoded \(Regex error"):
        ours("v3-tekken").encode(" " * 1_000_000)
