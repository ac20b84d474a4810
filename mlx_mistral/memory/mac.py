"""What macOS says of memory that is free now.

Nothing here could be run on a Mac by us: the text of `vm_stat` is read as its manual page and its
published source lay it out.
"""

from __future__ import annotations

import re
import subprocess

VM_STAT = "/usr/bin/vm_stat"
_SECONDS = 2
_PAGE_SIZE = re.compile(r"page size of (\d+) bytes", re.ASCII)
_COUNT = re.compile(r"(Pages [a-z ]+):\s+(\d+)\.", re.ASCII)
_FREE = ("Pages free", "Pages speculative", "Pages inactive")
"""What nobody holds, what was read ahead, and what was not used of late: the last two are given
up first. Purgeable pages lie among them and the active ones, so they are not added."""


def free_now() -> int | None:
    """Bytes that programs can have without others being swapped out; None: not told."""
    try:
        told = subprocess.run(
            [VM_STAT], capture_output=True, text=True, timeout=_SECONDS, check=True
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return free_bytes(told)


def free_bytes(vm_stat: str) -> int | None:
    """From what `vm_stat` prints; None where it does not tell its page size and free pages.

    Its first line ends in `(page size of 16384 bytes)`; the others are as
    `Pages free:                               51421.`
    Source: Apple's vm_stat(1), system_cmds/vm_stat.
    """
    size = _PAGE_SIZE.search(vm_stat)
    counts = {
        found[1]: int(found[2]) for line in vm_stat.splitlines() if (found := _COUNT.match(line))
    }
    if size is None or _FREE[0] not in counts:
        return None
    return int(size[1]) * sum(counts.get(name, 0) for name in _FREE)
