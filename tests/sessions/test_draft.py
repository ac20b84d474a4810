"""A reply reaches the disk once a second, by whatever clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions.clock import Clock

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import Draft, Message, Statistics, Store

STATISTICS = Statistics(
    tokens=1, seconds=1.0, tps=1.0, first_token_seconds=0.5, reason="stopped", model="demo"
)


class Counting:
    """A store that counts what is written."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.text = ""
        self.written_at: list[float] = []
        self.fails = False

    def append(self, message: int, text: str) -> None:
        if self.fails:
            raise SessionError("the disk is full")
        self.text += text
        self.written_at.append(self.clock())


def begun(store: Store) -> Message:
    return store.add(store.create().id, None, "assistant", "", complete=False)


MESSAGE = Message(id=1, parent=None, role="assistant", content="", created=0.0, complete=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.one_of(st.none(), st.text("ab", max_size=3)))))
def test_text_waits_for_a_second_at_most_and_is_written_once_a_second_at_most(
    happenings: list[tuple[float, str | None]],
) -> None:
    clock = Clock(0.0)
    counting = Counting(clock)
    draft = Draft(counting, MESSAGE, clock=clock)  # type: ignore[arg-type]
    came: list[tuple[float, str]] = []
    for seconds, text in happenings:
        clock.pass_by(seconds)
        if text is None:
            draft.tick()
        else:
            came.append((clock(), text))
            draft.append(text)
        everything = "".join(text for _, text in came)
        assert everything.startswith(counting.text)
        safe = "".join(text for at, text in came if at <= clock() - 1.0)
        assert counting.text.startswith(safe)
    gaps = zip([0.0, *counting.written_at], counting.written_at, strict=False)
    assert all(later - earlier >= 1.0 for earlier, later in gaps)


def test_nothing_is_written_where_nothing_waits() -> None:
    clock = Clock()
    counting = Counting(clock)
    draft = Draft(counting, MESSAGE, clock=clock)  # type: ignore[arg-type]
    for _ in range(5):
        clock.pass_by(1)
        draft.tick()
    draft.flush()
    assert counting.written_at == []


def test_what_could_not_be_written_is_written_later() -> None:
    clock = Clock()
    counting = Counting(clock)
    draft = Draft(counting, MESSAGE, clock=clock)  # type: ignore[arg-type]
    counting.fails = True
    draft.append("a")
    clock.pass_by(1)
    for text in ("b", "c"):
        with pytest.raises(SessionError, match="full"):
            draft.append(text)
    counting.fails = False
    draft.tick()
    assert counting.text == "abc"


def test_the_end_writes_the_rest_and_the_statistics(store: Store, clock: Clock) -> None:
    draft = Draft(store, begun(store), clock=clock)
    draft.append("a")
    clock.pass_by(1)
    draft.append("b")
    draft.append("c")
    assert store.message(draft.message.id).content == "ab"
    assert not store.message(draft.message.id).complete
    message = draft.finish(STATISTICS)
    assert message == store.message(message.id)
    assert (message.content, message.complete, message.statistics) == ("abc", True, STATISTICS)


def test_an_end_that_could_not_be_written_can_be_tried_again(store: Store, clock: Clock) -> None:
    draft = Draft(store, begun(store), clock=clock)
    draft.append("a")
    store.close()
    with pytest.raises(SessionError):
        draft.finish()
    with Store(store.path) as again:
        draft._store = again
        assert draft.finish().content == "a"
        draft.flush()
        assert again.message(draft.message.id).content == "a"
