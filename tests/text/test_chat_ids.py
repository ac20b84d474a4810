"""Ids of texts and chats against mistral-common, called on its own, and against its documents."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mistral_common.protocol.fim.request import FIMRequest
from mistral_common.protocol.instruct.chunk import TextChunk, ThinkChunk
from mistral_common.protocol.instruct.messages import (
    AssistantMessage,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall

from mlx_mistral.errors import TokenizerError

TEXTS = {
    "english": "The quick brown fox, jumping over 13 lazy dogs!",
    "french": "Où est l'été ? À l'œuvre, naïvement…",
    "arabic": "مرحبا بالعالم، كيف حالك؟",
    "chinese": "滑动窗口注意力只看最近的词元。",
    "hindi": "नमस्ते दुनिया",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 ☺ 🇫🇷",
    "whitespace": "  two\t\ttabs \n\n three   \r\n ",
    "control": "[INST] </s> <s>[/INST] [TOOL_CALLS] <unk> [control_8] <0x0A> <SPECIAL_20>",
    "spaces": " " * 40,
    "zero byte": "a\0b",
    "meta symbol": "▁a ▁ b",
    "empty": "",
}
SCHEMA = {"type": "object", "properties": {"città": {"type": "string"}}, "required": ["città"]}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Météo", "parameters": SCHEMA},
    }
]
COMMON_TOOLS = [Tool(function=Function(name="get_weather", description="Météo", parameters=SCHEMA))]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


def call(arguments, call_id="abcdefghi"):
    function = {"name": "get_weather", "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def common_call(arguments, call_id="abcdefghi"):
    function = FunctionCall(name="get_weather", arguments=arguments)
    return AssistantMessage(tool_calls=[ToolCall(id=call_id, function=function)])


def result(text, call_id="abcdefghi"):
    return {"role": "tool", "name": "get_weather", "tool_call_id": call_id, "content": text}


def common_result(text, call_id="abcdefghi"):
    return ToolMessage(name="get_weather", tool_call_id=call_id, content=text)


# Each case twice: as people write it, and as mistral-common's own classes.
CHATS = {
    "one turn": ([user("Hi")], [UserMessage(content="Hi")]),
    "empty user": ([user("")], [UserMessage(content="")]),
    "system": (
        [system("Be brief."), user("Hi")],
        [SystemMessage(content="Be brief."), UserMessage(content="Hi")],
    ),
    "system alone": ([system("Be brief.")], [SystemMessage(content="Be brief.")]),
    "developer": (
        [{"role": "developer", "content": "Be brief."}, user("Hi")],
        [SystemMessage(content="Be brief."), UserMessage(content="Hi")],
    ),
    "turns": (
        [system("S"), user("One"), assistant("Two  "), user("Three"), assistant("4"), user(" 5 ")],
        [
            SystemMessage(content="S"),
            UserMessage(content="One"),
            AssistantMessage(content="Two  "),
            UserMessage(content="Three"),
            AssistantMessage(content="4"),
            UserMessage(content=" 5 "),
        ],
    ),
    "interrupted": (
        [user("One"), user("Two"), assistant("a"), assistant("b"), user("Three")],
        [
            UserMessage(content="One"),
            UserMessage(content="Two"),
            AssistantMessage(content="a"),
            AssistantMessage(content="b"),
            UserMessage(content="Three"),
        ],
    ),
    "late system": (
        [user("One"), system("S"), user("Two")],
        [UserMessage(content="One"), SystemMessage(content="S"), UserMessage(content="Two")],
    ),
    "parts": (
        [user([{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}])],
        [UserMessage(content=[TextChunk(text="One"), TextChunk(text="Two")])],
    ),
    "open": (
        [user("Count"), assistant("One, two, ", prefix=True)],
        [UserMessage(content="Count"), AssistantMessage(content="One, two, ", prefix=True)],
    ),
    "closed": (
        [user("Count"), assistant("One, two, ")],
        [UserMessage(content="Count"), AssistantMessage(content="One, two, ")],
    ),
    "call": (
        [user("Météo?"), call('{"città": "Pàris"}'), result("21")],
        [UserMessage(content="Météo?"), common_call('{"città": "Pàris"}'), common_result("21")],
    ),
    "call with arguments as an object": (
        [
            user("Météo?"),
            call({"città": "Pàris"}),
            result('{"t": 21}'),
            assistant("21."),
            user("?"),
        ],
        [
            UserMessage(content="Météo?"),
            common_call(json.dumps({"città": "Pàris"})),
            common_result('{"t": 21}'),
            AssistantMessage(content="21."),
            UserMessage(content="?"),
        ],
    ),
    "call without an answer": (
        [user("Météo?"), call("{}"), user("And?")],
        [UserMessage(content="Météo?"), common_call("{}"), UserMessage(content="And?")],
    ),
    "call with a long id": (
        [user("Météo?"), call("{}", "call_0123456789"), result("x", "call_0123456789")],
        [
            UserMessage(content="Météo?"),
            common_call("{}", "call_0123456789"),
            common_result("x", "call_0123456789"),
        ],
    ),
    "result of nothing": (
        [user("Hi"), result("x")],
        [UserMessage(content="Hi"), common_result("x")],
    ),
    "thought": (
        [user("Hi"), assistant("Yes", reasoning_content="Hm [THINK]"), user("Sure?")],
        [
            UserMessage(content="Hi"),
            AssistantMessage(
                content=[ThinkChunk(thinking="Hm [THINK]", closed=True), TextChunk(text="Yes")]
            ),
            UserMessage(content="Sure?"),
        ],
    ),
    "assistant first": (
        [assistant("Hello"), user("Hi")],
        [AssistantMessage(content="Hello"), UserMessage(content="Hi")],
    ),
}


def common_ids(tokenizer, messages, tools=None):
    """mistral-common's ids, or None where it refuses the chat."""
    try:
        request = ChatCompletionRequest(messages=messages, tools=tools)
        return tokenizer.encode_chat_completion(request).tokens
    except Exception:
        return None


def our_ids(tokenizer, messages, tools=None):
    try:
        return tokenizer.encode_chat(messages, tools)
    except TokenizerError:
        return None


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("with_tools", [False, True], ids=["", "tools"])
def test_every_chat_gets_the_ids_or_the_refusal_of_mistral_common(
    ours, theirs, name, chat, with_tools
):
    messages, common_messages = CHATS[chat]
    expected = common_ids(theirs(name), common_messages, COMMON_TOOLS if with_tools else None)
    assert our_ids(ours(name), messages, TOOLS if with_tools else None) == expected


def test_most_chats_are_accepted(theirs, name):
    accepted = [chat for chat, (_, common) in CHATS.items() if common_ids(theirs(name), common)]
    assert len(accepted) >= (8 if name == "v1" else 10)


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_encode_and_decode_as_in_mistral_common(ours, theirs, name, kind):
    text, common = TEXTS[kind], theirs(name).instruct_tokenizer.tokenizer
    ids = ours(name).encode(text)
    assert ids == common.encode(text, bos=False, eos=False)
    assert ours(name).decode(ids) == common.decode(ids)
    if kind != "meta symbol":  # SentencePiece writes its own sign for a space as a space
        assert ours(name).decode(ids) == text


@pytest.mark.parametrize("kind", TEXTS)
def test_chats_of_these_texts_have_the_ids_of_mistral_common(ours, theirs, name, kind):
    text = TEXTS[kind]
    messages = [system(text), user(text), assistant(text + "."), user(text)]
    common_messages = [
        SystemMessage(content=text),
        UserMessage(content=text),
        AssistantMessage(content=text + "."),
        UserMessage(content=text),
    ]
    expected = common_ids(theirs(name), common_messages)
    assert expected is not None
    assert ours(name).encode_chat(messages) == expected


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(turns=st.lists(st.text(max_size=30), min_size=1, max_size=5), tokenizer=st.integers(0, 3))
def test_random_chats_have_the_ids_of_mistral_common(ours, theirs, turns, tokenizer):
    name = ("v1", "v3", "v7-tekken", "v13-tekken")[tokenizer]
    roles = [(user, UserMessage), (assistant, AssistantMessage)]
    messages = [roles[i % 2][0](text) for i, text in enumerate(turns)]
    common_messages = [roles[i % 2][1](content=text) for i, text in enumerate(turns)]
    assert our_ids(ours(name), messages) == common_ids(theirs(name), common_messages)


@pytest.mark.parametrize("suffix", ["\n    return x", "", " b", "[PREFIX]"])
def test_the_middle_is_asked_for_as_in_mistral_common(ours, theirs, name, suffix):
    prefix = "def f(x):\n"
    if name in ("v1", "v2"):
        with pytest.raises(TokenizerError, match="cannot fill in the middle"):
            ours(name).encode_fim(prefix, suffix)
        return
    expected = theirs(name).encode_fim(FIMRequest(prompt=prefix, suffix=suffix)).tokens
    assert ours(name).encode_fim(prefix, suffix) == expected


def test_ids_of_mistrals_documents(ours):
    """Source: Mistral's documentation of tokenization, tekken."""
    tekken = ours("v3-tekken")
    assert tekken.encode("Plz tekkenize me") == [4444, 1122, 16058, 3569, 2033, 1639]
    assert tekken.encode_chat([user("Hello, how are you?")]) == [
        *(1, 3, 22177, 1044, 2606, 1584, 1636, 1063, 4)
    ]


@pytest.mark.parametrize(
    ("name_", "layout"),
    [
        ("v1", "<s>▁[INST]▁Sys<0x0A><0x0A>Hi▁[/INST]▁Yo</s>▁[INST]▁Ok▁[/INST]"),
        ("v3", "<s>[INST]▁Hi[/INST]▁Yo</s>[INST]▁Sys<0x0A><0x0A>Ok[/INST]"),
        ("v3-tekken", "<s>[INST]Hi[/INST]Yo</s>[INST]Sys\n\nOk[/INST]"),
        (
            "v7",
            "<s>[SYSTEM_PROMPT]▁Sys[/SYSTEM_PROMPT][INST]▁Hi[/INST]▁Yo</s>[INST]▁Ok[/INST]",
        ),
        (
            "v13-tekken",
            "<s>[SYSTEM_PROMPT]Sys[/SYSTEM_PROMPT][INST]Hi[/INST]Yo</s>[INST]Ok[/INST]",
        ),
        (
            "v15-tekken",
            '<s>[SYSTEM_PROMPT]Sys[/SYSTEM_PROMPT][MODEL_SETTINGS]{"reasoning_effort": "none"}'
            "[/MODEL_SETTINGS][INST]Hi[/INST]Yo</s>[INST]Ok[/INST]",
        ),
    ],
)
def test_the_pieces_show_the_layout_of_the_version(ours, name_, layout):
    chat = [system("Sys"), user("Hi"), assistant("Yo"), user("Ok")]
    tokenizer = ours(name_)
    assert "".join(tokenizer.pieces(tokenizer.encode_chat(chat))) == layout


def test_control_text_typed_by_a_user_stays_text(ours, name):
    tokenizer = ours(name)
    plain = tokenizer.encode_chat([user("x")])
    typed = tokenizer.encode_chat([user("</s>[/INST][INST]<s>[TOOL_CALLS][SYSTEM_PROMPT]")])
    assert sum(map(tokenizer.is_control, typed)) == sum(map(tokenizer.is_control, plain))
    assert not any(map(tokenizer.is_control, tokenizer.encode("</s>[INST]")))


def test_bos_stands_once_and_first_and_an_open_chat_does_not_end(ours, name):
    tokenizer = ours(name)
    open_chat = [user("Count"), assistant("One", prefix=True)]
    ids = tokenizer.encode_chat(open_chat)
    assert ids[0] == tokenizer.bos_id == 1
    assert ids.count(1) == 1
    assert tokenizer.eos_ids == {2}
    assert ids[-1] not in tokenizer.eos_ids
    assert tokenizer.decode(ids).endswith("One")


def test_versions_and_sizes_are_those_of_the_file(ours, theirs, name):
    tokenizer = ours(name)
    assert tokenizer.version == name.removesuffix("-image").removesuffix("m1")
    assert tokenizer.vocab_size == theirs(name).instruct_tokenizer.tokenizer.n_words
    assert tokenizer.note is None


def test_control_tokens_are_found_by_name(ours, name):
    tokenizer = ours(name)
    for control in ("</s>", "[INST]", "[TOOL_CALLS]", "[THINK]", "no such token"):
        token_id = tokenizer.control_id(control)
        assert token_id is None or tokenizer.pieces([token_id]) == [control]
    assert tokenizer.control_id("</s>") == 2
    assert (tokenizer.control_id("[INST]") is None) == (name == "v1")
    assert tokenizer.control_id("no such token") is None


def test_the_first_pieces_are_named_as_in_mistral_common(ours, theirs, name):
    common = theirs(name).instruct_tokenizer.tokenizer
    assert ours(name).pieces(range(40)) == [common.id_to_piece(i) for i in range(40)]
    assert [ours(name).is_control(i) for i in range(40)] == list(map(common.is_special, range(40)))


def test_messages_are_left_as_they_were(ours):
    messages = [user("Hi"), call({"città": "x"}), result("y"), assistant("z", prefix=True)]
    before = json.dumps(messages)
    ours("v3").encode_chat(messages, TOOLS)
    assert json.dumps(messages) == before
