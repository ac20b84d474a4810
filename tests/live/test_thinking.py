"""Thinking is told apart in a reply's text and given back in its own form."""

from __future__ import annotations

from mlx_mistral.live.thinking import to_chat
from mlx_mistral.text.thinking import ReplyStream
from tests.live.live_models import Letters, Thinking, assistant, user


def tokens(text: str) -> list[int]:
    return Letters().encode(text)


def test_marks_stand_where_the_control_tokens_were() -> None:
    stream = ReplyStream(Thinking())  # type: ignore[arg-type]
    ids = [5, *tokens("hm"), 6, *tokens("yes"), 2]
    told = [stream.add(token) for token in ids]
    assert "".join(text for text, _ in told) == "[THINK]hm[/THINK]yes"
    assert [over for _, over in told] == [False] * (len(ids) - 1) + [True]


def test_a_letter_that_a_mark_cuts_is_shown_as_broken() -> None:
    stream = ReplyStream(Thinking())  # type: ignore[arg-type]
    assert [stream.add(0xC3 + 10), stream.add(6)] == [("", False), ("\ufffd[/THINK]", False)]


def test_thinking_goes_back_in_its_own_form() -> None:
    said = [user("[THINK]me[/THINK]"), assistant("[THINK]hm[/THINK]yes"), assistant("[THINK]cut")]
    thought = {"type": "thinking", "thinking": "hm", "closed": True}
    cut = {"type": "thinking", "thinking": "cut", "closed": False}
    assert [one["content"] for one in to_chat(said, Thinking())] == [  # type: ignore[arg-type]
        "[THINK]me[/THINK]",
        [thought, {"type": "text", "text": "yes"}],
        [cut],
    ]


def test_a_format_without_thinking_is_given_the_answer_alone() -> None:
    said = [assistant("[THINK]hm[/THINK]yes"), assistant("plain [THINK]")]
    chat = to_chat(said, Letters())  # type: ignore[arg-type]
    assert [one["content"] for one in chat] == ["yes", "plain [THINK]"]
