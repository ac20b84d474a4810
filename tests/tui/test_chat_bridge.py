"""From a model's thread to the screen."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from itertools import count, pairwise
from threading import Thread

from chatting import window
from scripted import finished, pieces
from textual.events import Key

from mlx_mistral.live.events import Event, Piece
from mlx_mistral.tui.bridge import SHARE, Bridge


async def test_many_events_are_few_deliveries_and_none_is_lost_or_out_of_order() -> None:
    batches: list[tuple[Event, ...]] = []
    bridge = Bridge(batches.append, frame_seconds=0.01)
    bridge.open()
    events = pieces(1, map(str, range(20_000)))

    def tell() -> None:
        for event in events:
            bridge(event)

    thread = Thread(target=tell)
    thread.start()
    await asyncio.to_thread(thread.join)
    bridge(events[0])
    async with asyncio.timeout(60):
        while sum(map(len, batches)) <= len(events):
            await asyncio.sleep(0)
    assert [event for batch in batches for event in batch] == [*events, events[0]]
    assert len(batches) < 1000


async def test_deliveries_are_a_frame_apart() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    bridge = Bridge(lambda batch: times.append(loop.time()), frame_seconds=0.02)
    bridge.open()
    async with asyncio.timeout(60):
        while len(times) < 4:
            bridge(Piece(id=1, token=0, text="a"))
            await asyncio.sleep(0)
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) > 0.015


async def test_frames_that_cost_more_come_more_seldom_and_an_end_waits_for_none() -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    bridge = Bridge(
        lambda batch: times.append(loop.time()),
        frame_seconds=0.001,
        worked=count(step=0.01).__next__,
    )
    bridge.open()
    async with asyncio.timeout(60):
        while len(times) < 4:
            bridge(Piece(id=1, token=0, text="a"))
            await asyncio.sleep(0)
        bridge(Piece(id=1, token=0, text="a"))
        bridge(finished(1))
        await asyncio.sleep(0)
    assert len(times) == 5
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps[1:3]) > 0.01 / SHARE * 0.9


async def test_a_closed_bridge_drops_what_comes() -> None:
    batches: list[tuple[Event, ...]] = []
    bridge = Bridge(batches.append)
    bridge.open()
    bridge(Piece(id=1, token=0, text="a"))
    bridge.close()
    bridge(Piece(id=1, token=0, text="b"))
    await asyncio.sleep(0.05)
    assert batches == []


async def test_keys_are_echoed_while_10_000_tokens_flood_in() -> None:
    async with window() as w:
        await w.send("go")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        echoed, told = threading.Event(), []

        def flood() -> Iterator[Event]:
            while len(told) < 10_000 or not echoed.is_set():
                word = f"word{len(told)}{' ' if len(told) % 20 else chr(10) * 2}"
                told.append(word)
                yield Piece(id=id, token=0, text=word)
                if len(told) > 10_000:  # more than any model makes, but not without end
                    time.sleep(0.001)

        thread = w.engine.tell_from_thread(flood())
        typed = "typed while it floods"
        for letter in typed:
            w.app.post_message(_key(letter))
        while w.composer.text != typed and thread.is_alive() and len(told) < 30_000:
            await asyncio.sleep(0)
        echoed.set()
        assert w.composer.text == typed
        await asyncio.to_thread(thread.join)
        w.engine.tell(finished(id))
        await w.until(lambda: w.chat.conversation.running is None)
        assert w.said()[-1][1] == "".join(told)
        await w.until(lambda: f"word{len(told) - 1}" in w.text)


def _key(letter: str) -> Key:
    return Key("space" if letter == " " else letter, letter)
