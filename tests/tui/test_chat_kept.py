"""What is said and what is on disk: the same, in the same order, however slow the disk is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatting import window
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import ScriptedEngine, pieces, progress, told

from mlx_mistral.live.commands import Settings
from mlx_mistral.sessions.preferences import Preferences
from mlx_mistral.sessions.store import Store
from mlx_mistral.sessions.tree import Message, Tree
from mlx_mistral.tui.app import ChatApp
from mlx_mistral.tui.chat.conversation import SAVE_SECONDS, Conversation
from mlx_mistral.tui.chat.keeper import Kept, Unkept
from mlx_mistral.tui.chat.queue import Pending
from mlx_mistral.tui.store_thread import StoreThread

STEP = st.tuples(st.sampled_from(["say", "edit", "again", "switch", "silent"]), st.integers(0, 99))


def shape(tree: Tree) -> tuple[object, ...]:
    """A tree without its ids and times: messages in order, each with the place of its parent."""
    places = {id: place for place, id in enumerate(sorted(tree.messages))}
    messages = [
        (
            message.role,
            message.content,
            message.complete,
            message.statistics and message.statistics.tokens,
            None if message.parent is None else places[message.parent],
        )
        for _, message in sorted(tree.messages.items())
    ]
    return messages, None if tree.leaf is None else places[tree.leaf]


def take(conversation: Conversation, step: str, choice: int) -> None:
    """One thing that a person does in a window."""
    ids = sorted(conversation.tree.messages)
    if step == "say" or not ids:
        conversation.send(Pending(text=f"say {choice}"), Settings())
    elif step == "edit":
        own = [id for id in ids if conversation.tree[id].role == "user"]
        edited = own[choice % len(own)]
        conversation.send(Pending(text=f"edit {choice}", edits=edited), Settings())
    elif step == "switch":
        conversation.switch(ids[choice % len(ids)], 1 - 2 * (choice % 2))
        return
    else:
        conversation.regenerate(ids[choice % len(ids)], Settings())
    if step != "silent":
        conversation.grow(f"reply {choice}")
    conversation.end(progress(1, reply_tokens=choice), "stop", "")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, max_size=8), st.lists(STEP, max_size=8))
def test_what_a_window_has_is_what_is_on_disk(
    tmp_path: Path, steps: list[tuple[str, int]], later: list[tuple[str, int]]
) -> None:
    failures: list[str] = []
    with Store(tmp_path / "sessions.db") as store:
        session, tree = None, Tree()
        for part in (steps, later):  # the second time the session is opened from disk
            thread = StoreThread(store)
            kept = Kept(
                thread,
                session,
                lambda: ("demo", {}),
                first_id=max(tree.messages, default=0) + 1,
                failed=failures.append,
            )
            conversation = Conversation(kept, tree)
            for step, choice in part:
                take(conversation, step, choice)
            thread.close()
            last = kept._session
            if last is not None:
                assert shape(store.tree(last)) == shape(conversation.tree)
                session, tree = last, store.tree(last)
        assert not failures


class Counting(Unkept):
    """Remembers what was written when."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock
        self.text = ""
        self.written_at: list[float] = []

    def append(self, message: int, text: str) -> None:
        self.text += text
        self.written_at.append(self.clock[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.text("ab", min_size=1, max_size=3))))
def test_text_is_written_half_a_second_after_it_came_and_no_more_often(
    came: list[tuple[float, str]],
) -> None:
    clock = [0.0]
    counting = Counting(clock)
    conversation = Conversation(counting, clock=lambda: clock[0])
    conversation.send(Pending(text="go"), Settings())
    texts: list[tuple[float, str]] = []
    for seconds, text in came:
        clock[0] += seconds
        conversation.grow(text)
        texts.append((clock[0], text))
        assert "".join(text for _, text in texts).startswith(counting.text)
        old = "".join(text for at, text in texts if at <= clock[0] - SAVE_SECONDS)
        assert counting.text.startswith(old)
    gaps = zip(counting.written_at, counting.written_at[1:], strict=False)
    assert all(after - before >= SAVE_SECONDS for before, after in gaps)


class Slow(Store):
    """A disk that does nothing until it is let."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may = threading.Event()

    def add(
        self,
        session: int,
        parent: int | None,
        role: str,
        content: str,
        *,
        complete: bool = True,
    ) -> Message:
        assert self.may.wait(30)
        return super().add(session, parent, role, content, complete=complete)


@contextmanager
def slow(path: Path) -> Iterator[Slow]:
    with Slow(path) as store:
        try:
            yield store
        finally:
            store.may.set()


async def test_a_disk_that_does_not_answer_delays_no_key_and_loses_nothing(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    with slow(tmp_path / "sessions.db") as store:
        async with window(engine, app=ChatApp(engine, store)) as w:
            await w.answer("one", "first")
            await w.answer("two", "second")
            await w.send("three")
            await w.until(lambda: len(engine.replies) == 3)
            engine.tell(*pieces(engine.replies[-1].id, ["half"]))
            await w.until(lambda: "half" in w.text)
            await w.press(*"typed")
            assert w.composer.text == "typed"
            assert [m.content for m in engine.replies[-1].messages] == [
                "one", "first", "two", "second", "three",
            ]  # fmt: skip
            store.may.set()
        last = store.last()
        assert last is not None
        assert [(m.content, m.complete) for m in store.tree(last.id).path()] == [
            ("one", True), ("first", True), ("two", True), ("second", True), ("three", True),
            ("half", True),
        ]  # fmt: skip


async def test_what_is_stated_wins_over_what_a_conversation_was_kept_with(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    with Store(tmp_path / "sessions.db") as store:
        settings = {"temperature": 0.9, "seed": 4, "system": "Be brief."}
        before = store.create(model="demo", settings=settings)
        store.add(before.id, None, "user", "an older question")
        stated = {"temperature": 0.0, "system": ""}
        preferences = Preferences(temperature=0.2, top_p=0.5)
        app = ChatApp(engine, store, preferences, session=before.id, stated=stated)
        async with window(engine, app=app) as w:
            now = app.chat.settings
            assert (now.temperature, now.system, now.seed, now.top_p) == (0.0, "", 4, 0.5)
            await w.answer("one", "first")
        assert store.session(before.id).settings["temperature"] == 0.0


async def test_another_conversation_has_its_own_settings_and_names_its_model(
    tmp_path: Path,
) -> None:
    engine = ScriptedEngine()
    with Store(tmp_path / "sessions.db") as store:
        other = store.create(model="org/[b]other[/b]", settings={"temperature": 0.9, "seed": 4})
        store.add(other.id, None, "user", "an older question")
        app = ChatApp(engine, store)
        async with window(engine, app=app) as w:
            await w.answer("one", "first")
            await w.send("/temp 0.3")
            await w.until(lambda: app.chat.settings.temperature == 0.3)
            await app.open_session(other.id)
            await w.until(lambda: "an older question" in w.text)
            assert (app.chat.settings.temperature, app.chat.settings.seed) == (0.9, 4)
            assert "was with org/[b]other[/b]" in w.text
            await w.press("ctrl+r")
            await w.until(lambda: len(engine.replies) == 2)
            engine.tell(*told(engine.replies[1].id, "an answer"))
            await w.until(lambda: w.chat.conversation.running is None)
        mine = next(each for each in store.sessions() if each.id != other.id)
        assert mine.settings["temperature"] == 0.3
        assert [m.content for m in store.tree(other.id).path()] == [
            "an older question", "an answer",
        ]  # fmt: skip
