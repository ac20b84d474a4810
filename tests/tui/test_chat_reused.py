"""A reply goes back to the engine in its own tokens; what it reused is shown after reopening."""

from __future__ import annotations

from scripted import progress

from mlx_mistral.live.commands import Settings
from mlx_mistral.sessions.tree import Statistics
from mlx_mistral.tui.chat.conversation import Conversation
from mlx_mistral.tui.chat.entry import kept_note
from mlx_mistral.tui.chat.keeper import Unkept
from mlx_mistral.tui.chat.queue import Pending


def test_replies_are_given_back_in_their_tokens_with_what_they_reused() -> None:
    talk = Conversation(Unkept())
    first = talk.send(Pending(text="Hi"), Settings())
    assert [message.token_ids for message in first.messages] == [()]
    talk.grow("Yes")
    message = talk.end(
        progress(first.id, prompt_tokens=40, reused_tokens=30), "stop", "", token_ids=(5, 9)
    )
    assert message is not None
    assert message.statistics is not None
    assert (message.statistics.prompt_tokens, message.statistics.reused_tokens) == (40, 30)
    again = talk.send(Pending(text="And?"), Settings())
    assert [message.token_ids for message in again.messages] == [(), (5, 9), ()]
    assert kept_note(message.statistics).startswith("read 10 new tokens, 30 reused · wrote")


def test_what_nobody_counted_is_not_told() -> None:
    old = Statistics(
        tokens=3, seconds=1.0, tps=2.0, first_token_seconds=None, reason="stop", model="demo"
    )
    assert kept_note(old) == "wrote 3 at 2.0 tokens/s"
