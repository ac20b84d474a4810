"""Markdown of a stranger: formatted, and nothing in it acts."""

from __future__ import annotations

from functools import cache

from markdown_it import MarkdownIt
from textual.widgets import Markdown

_OFF = ("link", "image", "autolink", "linkify", "reference", "html_inline", "html_block", "entity")
"""Links, pictures and HTML are shown as they were written: what they point at is seen, and
nothing can be opened."""


@cache
def parser() -> MarkdownIt:
    """Headings, lists, tables, quotes, emphasis and code of GitHub's Markdown.

    One for all: it keeps nothing of what it parses, and making it costs more than most parsing.
    """
    made = MarkdownIt("gfm-like", {"html": False, "linkify": False, "maxNesting": 8})
    made.disable(list(_OFF), ignoreInvalid=True)
    made.parse("- *compiles its rules*")  # which threads that parse at once may not do
    return made


class ModelMarkdown(Markdown):
    """A Markdown widget that follows no link and shows HTML as text."""

    DEFAULT_CSS = """
    ModelMarkdown { padding: 0; }
    ModelMarkdown MarkdownH1 { content-align: left middle; }
    ModelMarkdown MarkdownHeader { margin: 0 0 1 0; }
    """

    def __init__(self, text: str | None = None) -> None:
        super().__init__(text, parser_factory=parser, open_links=False)
