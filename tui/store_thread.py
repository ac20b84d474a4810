"""What is kept on disk, behind a thread: a slow disk never delays a key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mlx_mistral.sessions.store import Store

Result = TypeVar("Result")


class StoreThread:
    """Does what is asked of a store in order, on a thread of its own."""

    def __init__(self, store: Store) -> None:
        """The store stays open when the thread is closed: it belongs to whoever opened it."""
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")

    def submit(self, act: Callable[[Store], Result]) -> Future[Result]:
        """Returns at once. From any thread, until it is closed."""
        return self._thread.submit(act, self._store)

    async def ask(self, act: Callable[[Store], Result]) -> Result:
        """What an act returns, once its turn has come. Raises: what the act raises."""
        return await asyncio.wrap_future(self.submit(act))

    def close(self) -> None:
        """Returns when all that was asked has been done. May be called twice."""
        self._thread.shutdown(wait=True)
