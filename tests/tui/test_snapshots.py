"""The main screens as they look, in a small and in a large terminal.

`ACCEPT_SNAPSHOTS=1 python -m pytest tests/tui/test_snapshots.py` writes tests/tui/snapshots/ anew.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from chatting import SMALL, Window, window
from panel_waiting import until
from pictures import picture
from scripted import ScriptedEngine, loaded, pieces, progress

from mlx_mistral.live.events import Alternative, Piece, Reading, Routed
from mlx_mistral.sessions.store import Store
from mlx_mistral.tui.pickers.model_rows import ModelRow, Report
from mlx_mistral.tui.pickers.models import ModelPicker
from mlx_mistral.tui.pickers.sessions import SessionPicker
from mlx_mistral.tui.settings import SettingsForm
from mlx_mistral.tui.store_thread import StoreThread
from mlx_mistral.tui.window import ChatWindow, TokenScreen

ANSWER = """\
# A ring

A window of **4096** tokens is kept in a *ring*:

- the newest key overwrites the oldest
- so memory stays the same

| slot | holds |
|---|---|
| 0 | token 4096 |
| 1 | token 1 |

```python
def slot(position: int, window: int) -> int:
    return position % window
```
"""

ROWS = [
    ModelRow(name="demo", is_cached=True, size_bytes=6_760_000, bits=16.0, fits=True,
             decode_tps=812.0),
    ModelRow(name="mlx-community/Mistral-7B-Instruct-v0.3-4bit", is_cached=True,
             size_bytes=4_080_000_000, bits=4.5, fits=True, decode_tps=41.7),
    ModelRow(name="mixtral-8x22b", is_cached=False, size_bytes=80_000_000_000, bits=4.5,
             fits=False, decode_tps=9.0),
    ModelRow(name="codestral-22b", is_cached=False),
]  # fmt: skip
NOW = 1_000_000.0


class Models:
    """Tells rows at once."""

    def rows(self) -> Sequence[ModelRow]:
        return ROWS

    def pull(self, name: str, report: Report) -> None:
        report(1, 2)


@asynccontextmanager
async def opened() -> AsyncIterator[Window]:
    engine = ScriptedEngine()
    app = ChatWindow(engine)
    app.models = Models()
    async with window(engine, app=app, load=False) as w:
        engine.tell(loaded("demo", n_layers=8, n_experts=8, experts_per_token=2, windows=(64,) * 8))
        await w.until(lambda: w.chat.is_loaded)
        w.composer.cursor_blink = False
        yield w


async def begin(w: Window, text: str, reply: Sequence[str]) -> int:
    """Sends a message and has a part of the reply told. Returns: its id."""
    n = len(w.engine.replies)
    await w.send(text)
    await w.until(lambda: len(w.engine.replies) > n)
    id = w.engine.replies[-1].id
    w.engine.tell(Reading(id=id, done=23, total=23, reused=7), *pieces(id, reply), progress(id))
    await w.until(lambda: reply[-1].split()[-1] in w.text)
    return id


def watched(id: int, token: int, text: str, probability: float) -> Piece:
    own = Alternative(token=token, text=text, probability=probability)
    other = Alternative(token=token + 100, text=" else", probability=(1 - probability) / 2)
    return Piece(id=id, token=token, text=text, probability=probability, alternatives=(own, other))


def worked(id: int, tokens: int) -> Routed:
    """Experts that were chosen for so many tokens."""
    counts = [[0] * 8 for _ in range(8)]
    for token in range(1, tokens + 1):
        for layer, row in enumerate(counts):
            row[(token + layer) % 8] += 1
            row[(token * layer + 3) % 8] += 1
    return Routed(id=id, tokens=tokens, counts=tuple(map(tuple, counts)))


async def test_a_conversation() -> None:
    async with opened() as w:
        await w.answer(
            "How does a *ring* work?", "[THINK]What is meant\nis a cache.[/THINK]", ANSWER
        )
        await picture(w, "conversation")
        await w.press("tab", "up")
        await picture(w, "message_chosen", SMALL)
        await w.press("escape", "f2")
        await picture(w, "light", SMALL)


async def test_a_conversation_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened() as w:
        await w.answer("How does a *ring* work?", ANSWER)
        await w.press("tab", "up")
        await picture(w, "without_colour", SMALL)


async def test_a_reply_that_comes_and_messages_that_wait() -> None:
    async with opened() as w:
        await begin(
            w, "Tell me about rings.", ["[THINK]Short", " or long?", "[/THINK]", "Rings **are"]
        )
        await picture(w, "streaming")
        await w.send("And what of windows?")
        await w.send("A second one that waits,\nof two lines")
        await picture(w, "waiting")


async def test_the_machine_at_work() -> None:
    async with opened() as w:
        await w.press("f3")
        await w.until(lambda: w.engine.watches)
        id = await begin(w, "Tell me about rings.", ["Rings are round."])
        for n in range(1, 30):
            text = f" {n}"
            w.engine.tell(watched(id, n, text, 0.9))
            if n == 29:
                w.engine.tell(worked(id, n))
            w.engine.tell(progress(id, reply_tokens=n, decode_tps=100.0, cache_tokens=30 + n))
        await w.until(lambda: " 29" in w.text)
        await picture(w, "machine")


async def test_the_lists_of_models_and_conversations(tmp_path: Path) -> None:
    async with opened() as w:
        w.app.push_screen(ModelPicker(Models()))
        await until(w.pilot, lambda: "codestral" in w.text)
        await w.press("down")
        await picture(w, "models")
        await w.press("escape")
        await w.until(lambda: w.app.screen is w.chat)
        seconds = [NOW - 3 * 3600]
        with Store(tmp_path / "kept.sqlite3", clock=lambda: seconds[0]) as store:
            for text in ("About bread and [red]butter[/]", "About rivers", "About bread ovens"):
                session = store.create(model="org/mistral-7b")
                asked = store.add(session.id, None, "user", text)
                store.add(session.id, asked.id, "assistant", f"{text}: flour, water, salt.")
                seconds[0] += 3600
            thread = StoreThread(store)
            w.app.push_screen(SessionPicker(thread, query="bread", clock=lambda: NOW))
            await until(w.pilot, lambda: "flour" in w.text)
            await picture(w, "conversations")
            await w.press("escape")
            await w.until(lambda: w.app.screen is w.chat)
            thread.close()


async def test_tokens_and_their_alternatives() -> None:
    async with opened() as w:
        words = [("Rings", 0.95), (" are", 0.6), (" [b]", 0.3), ("round", 0.05), ("\n", 0.9)]
        w.app.push_screen(TokenScreen([watched(1, n, *word) for n, word in enumerate(words * 3)]))
        await w.until(lambda: isinstance(w.app.screen, TokenScreen))
        await w.press("right", "right")
        await picture(w, "tokens")


async def test_settings_help_and_the_palette() -> None:
    async with opened() as w:
        settings = replace(w.chat.settings, temperature=0.7, seed=1)
        w.app.push_screen(SettingsForm(settings, theme="textual-dark", themes=["textual-dark"]))
        await w.until(lambda: isinstance(w.app.screen, SettingsForm))
        await picture(w, "settings")
        await w.press("escape")
        await w.until(lambda: w.app.screen is w.chat)
        await w.press("ctrl+p")
        await w.until(lambda: w.app.screen is not w.chat)
        await w.until(lambda: "Again" in w.text)
        await picture(w, "palette", SMALL)
        await w.press("escape")
        await w.until(lambda: w.app.screen is w.chat)
        await w.send("/help")
        await w.until(lambda: "Unqueue" in w.text)
        await picture(w, "help")
