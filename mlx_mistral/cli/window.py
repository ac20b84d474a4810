"""The full-screen chat: what the command line says becomes a window."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import MlxMistralError

from . import options
from .hang_up import HangUp
from .known_models import KnownModels

if TYPE_CHECKING:
    from mlx_mistral.prompt_cache import PromptCacheStore
    from mlx_mistral.sessions.preferences import Preferences

ESCAPE_MILLISECONDS = "25"
"""An Escape is held back so long for the rest of a key; Textual reads it at import."""


def is_possible() -> bool:
    """Whether both ends are a terminal that a window can be drawn on."""
    streams = (sys.stdin, sys.stdout)
    at_a_terminal = all(stream is not None and stream.isatty() for stream in streams)
    return at_a_terminal and os.environ.get("TERM", "dumb") != "dumb"


def open_window(args: argparse.Namespace) -> None:
    """Runs until the window is closed. Raises: SessionError: what is kept cannot be read."""
    os.environ.setdefault("ESCDELAY", ESCAPE_MILLISECONDS)
    import asyncio

    from mlx_mistral.live.engine import LiveEngine
    from mlx_mistral.sessions.preferences import default_path, load_preferences
    from mlx_mistral.sessions.store import Store
    from mlx_mistral.tui.window import ChatWindow

    preferences = load_preferences(default_path())
    with HangUp() as hang_up, Store() as store:
        last = store.last() if getattr(args, "continue") else None
        if last is None and getattr(args, "continue"):
            raise MlxMistralError("there is no conversation to continue; leave --continue out")
        model = args.model or (last.model if last else None) or preferences.model
        app = ChatWindow(
            LiveEngine(caches=_caches(preferences), dtype=args.dtype, memory=args.memory),
            store,
            preferences,
            model or options.DEFAULT_MODEL,
            session=last.id if last else None,
            context=args.context,
            stated=stated(args),
        )
        app.models = KnownModels(args.context)
        with asyncio.Runner() as runner:
            hang_up.leaves_by(runner.get_loop(), app.exit)
            app.run(loop=runner.get_loop())


def _caches(preferences: Preferences) -> PromptCacheStore | None:
    """Where long conversations are kept as they were read, unless that is not wanted."""
    from mlx_mistral.files.home import home
    from mlx_mistral.prompt_cache import PromptCacheStore
    from mlx_mistral.sessions.places import PROMPT_CACHES

    if preferences.keep_cache is False:
        return None
    gb = preferences.keep_cache_gb
    return PromptCacheStore(
        home() / PROMPT_CACHES, limit_bytes=None if gb is None else int(gb * 10**9)
    )


def stated(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that the command line states: they win over all that is kept."""
    flags = {
        "temperature": args.temp,
        "top_p": args.top_p,
        "max_tokens": args.max_tokens,
        "seed": args.seed,
        "cache_bits": args.kv_bits,
        "system": args.system,
    }
    return {name: value for name, value in flags.items() if value is not None}
