"""The clipboard of a Mac: its Terminal ignores the escape sequence that other terminals read."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping

PBCOPY = "/usr/bin/pbcopy"
COPY_SECONDS = 2.0


def copy_on_mac(
    text: str, *, system: str = sys.platform, environment: Mapping[str, str] = os.environ
) -> None:
    """Copy a text with `pbcopy` where this program runs on the Mac that a person sits at.

    Over SSH the clipboard is another machine's, which only the escape sequence (OSC 52) reaches.
    `pbcopy` reads UTF-8 only where the locale says so.
    Source: Textual's `App.copy_to_clipboard`; github.com/lsdefine/GenericAgent/pull/418.
    """
    if system != "darwin" or "SSH_CONNECTION" in environment:
        return
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            (PBCOPY,),
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environment, "LC_ALL": "en_US.UTF-8"},
            timeout=COPY_SECONDS,
            check=False,
        )
