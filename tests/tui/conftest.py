"""Tests of screens may be coroutines; what they share lies beside them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from pathlib import Path

import pytest
import textual._wait

# Not as `tui.scripted`: that name is the folder of the screens themselves.
sys.path.append(str(Path(__file__).parent))

# The pilot looks whether the program is idle in steps of 20 ms, twice a key; these are shorter.
textual._wait.SLEEP_GRANULARITY = 1 / 250
textual._wait.SLEEP_IDLE = 1 / 2500


@pytest.fixture(autouse=True)
def _own_clipboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the clipboard of the Mac that they run on."""
    monkeypatch.setattr("mlx_mistral.tui.app.copy_on_mac", lambda text: None)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a coroutine test in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in names}
    gc.disable()  # a window makes much that is looked through in vain, a fifth of the time
    try:
        asyncio.run(pyfuncitem.obj(**arguments))
    finally:
        gc.enable()
    return True
