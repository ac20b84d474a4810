"""Tests of screens may be coroutines; what they share lies beside them."""

from __future__ import annotations

import asyncio
import inspect
import sys
from pathlib import Path

import pytest

# Not as `tui.scripted`: that name is the folder of the screens themselves.
sys.path.append(str(Path(__file__).parent))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a coroutine test in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: value for name, value in pyfuncitem.funcargs.items() if name in names}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True
