"""Commands wait in order; what is stopped, and what is small, does not wait."""

from __future__ import annotations

from mlx_mistral.live.commands import Count, Load, Reply
from mlx_mistral.live.inbox import Inbox

A, B = Reply(id=1, messages=()), Reply(id=2, messages=())
LOAD, COUNT = Load(model="demo"), Count(id=3, text="x")


def inbox(*commands: Load | Reply | Count) -> Inbox:
    box = Inbox()
    for command in commands:
        box.put(command)
    return box


def test_commands_are_taken_in_order() -> None:
    box = inbox(LOAD, A, COUNT, B)
    assert [box.take() for _ in range(4)] == [LOAD, A, COUNT, B]


def test_a_stop_reaches_the_reply_at_work_and_no_later_one() -> None:
    box = inbox(A, B)
    box.take()
    assert not box.is_stopped
    box.stop(1)
    assert box.is_stopped
    assert (box.take(), box.is_stopped) == (B, False)


def test_a_waiting_reply_that_is_stopped_is_pressing() -> None:
    box = inbox(A, LOAD, B)
    box.take()
    assert not box.pressing
    box.stop(2)
    assert box.pressing
    assert not box.is_stopped
    assert box.take_pressing() == [B]
    assert not box.pressing
    assert box.take() == LOAD


def test_stopping_all_leaves_loads_and_counts() -> None:
    box = inbox(A, B, LOAD, COUNT)
    box.take()
    box.stop(None)
    assert box.is_stopped
    assert box.take_pressing() == [B]
    assert [box.take(), box.take()] == [LOAD, COUNT]


def test_a_stopped_reply_that_nothing_delays_is_taken_as_stopped() -> None:
    box = inbox(A, B)
    box.stop(2)
    assert (box.take(), box.is_stopped) == (B, True)
    assert (box.take(), box.is_stopped) == (A, False)


def test_a_text_is_counted_in_between_but_not_by_the_model_before_its_own() -> None:
    box = inbox(A, COUNT, LOAD, COUNT)
    box.take()
    assert box.pressing
    assert box.take_pressing() == [COUNT]
    assert [box.take(), box.take()] == [LOAD, COUNT]


def test_loads_are_stopped_at_work_and_waiting_and_replies_are_not() -> None:
    other = Load(model="other")
    box = inbox(LOAD, A, other)
    box.take()
    box.stop_loading()
    assert box.is_stopped
    assert box.take_pressing() == [other]
    assert (box.take(), box.is_stopped) == (A, False)
    box.stop_loading()
    assert not box.is_stopped


def test_stopping_what_is_not_there_does_nothing() -> None:
    box = inbox()
    box.stop(7)
    box.stop(None)
    box.put(A)
    assert (box.take(), box.is_stopped) == (A, False)


def test_after_closing_all_that_waits_is_unwanted_and_nothing_comes_in() -> None:
    box = inbox(LOAD, A)
    box.close()
    box.put(B)
    assert [(box.take(), box.is_stopped) for _ in range(2)] == [(LOAD, True), (A, True)]
    assert box.take() is None
