"""The code blocks of a Markdown text, for copying."""

from __future__ import annotations

from .segments import Fence


def code_blocks(markdown: str) -> list[str]:
    """What stands between fences, in order; a block that is still open counts as well."""
    blocks: list[str] = []
    fence = Fence()
    lines: list[str] = []
    for line in markdown.splitlines(keepends=True):
        inside = bool(fence.mark)
        fence.line(line)
        if inside and fence.mark:
            lines.append(line)
        elif inside:
            blocks.append("".join(lines))
        else:
            lines = []
    if fence.mark:
        blocks.append("".join(lines))
    return blocks
