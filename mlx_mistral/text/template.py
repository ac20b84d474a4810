"""Chat templates: programs from a checkpoint, run where they can neither reach nor exhaust us.

Jinja2's sandbox keeps a template away from Python's internals. What it leaves open, values that
grow without bound and loops without end, is bounded here.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

LARGEST_TEMPLATE_CHARS = 1_000_000
LARGEST_VALUE = 16_000_000
"""Characters of a text, or items of a list: more than any context holds."""
LONGEST_SECONDS = 10.0

_ALLOWED_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject"),
    *("rejectattr", "reverse", "round", "safe", "select", "selectattr", "sort", "title", "trim"),
    *("unique", "upper"),
)
_GROWING_METHODS = frozenset(
    ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill")
)
_STRFTIME = re.compile(r"[^%]*(?:%[-a-zA-Z%][^%]*)*")


class ChatTemplate:
    """One template, compiled once."""

    def __init__(self, source: str) -> None:
        """Raises: TemplateError and others of jinja2: the template is malformed."""
        if len(source) > LARGEST_TEMPLATE_CHARS:
            raise SecurityError(
                f"the chat template has {len(source)} characters, which is too long"
            )
        self._template = _Sandbox().from_string(source)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The chat as the template writes it.

        Raises: TemplateError and others of jinja2: the template refuses the chat or fails.
        """
        with _deadline(LONGEST_SECONDS):
            return self._template.render(variables)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with every operation bounded whose result can outgrow its operands."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            optimized=False,  # constants are folded at compile time otherwise, before the deadline
            finalize=_bounded,
        )
        self.filters = {name: FILTERS[name] for name in _ALLOWED_FILTERS} | {
            "join": _join,
            "replace": _replace,
            "string": _text_of,
            "tojson": _to_json,
        }
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.concat = _concat  # type: ignore[method-assign]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _ConcatAsAdd().visit(tree)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str | list | tuple):
            _check_size(len(left) + (len(right) if hasattr(right, "__len__") else 0))
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() + right.bit_length())
        elif operator == "*":
            _check_size(_size(left) * _size(right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("the chat template formats text with %, which is not allowed")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name in _GROWING_METHODS:
                raise SecurityError(f"the chat template calls .{name}(), which is not allowed")
            if name == "replace":
                return _replace(owner, *args)
            if name == "join":
                return _join(args[0], owner)
        return super().call(__context, __obj, *args, **kwargs)


class _ConcatAsAdd(NodeTransformer):
    """`a ~ b` becomes `a|string + b|string`, since the sandbox sees `+` but not `~`."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        terms: list[nodes.Expr] = [
            nodes.Filter(term, "string", [], [], None, None, lineno=node.lineno)
            for term in node.nodes
        ]
        total = terms[0]
        for term in terms[1:]:
            total = nodes.Add(total, term, lineno=node.lineno)
        return total


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Stops Python code that runs longer, at its next line."""
    end = time.monotonic() + seconds

    def check(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if time.monotonic() > end:
            raise SecurityError(f"the chat template ran longer than {seconds:g} seconds")
        return check

    before = sys.gettrace()
    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


def _size(value: Any) -> int:
    """The length of a sequence, or what an integer multiplies by."""
    if isinstance(value, int):
        return abs(value) if value.bit_length() < 64 else LARGEST_VALUE + 1
    return len(value) if isinstance(value, str | bytes | list | tuple) else 1


def _check_size(size: int) -> None:
    if size > LARGEST_VALUE:
        raise SecurityError(f"the chat template makes a value of {size} items, which is too large")


def _bounded(value: Any) -> Any:
    """`value`, if its text is bounded: a list may hold itself many times over."""
    budget = LARGEST_VALUE // 16
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple | set):
            pending.extend(item)
        elif not isinstance(item, str | int | float | Undefined | None):
            raise SecurityError(f"the chat template writes a {type(item).__name__} as text")
        budget -= 1 + (len(item) // 16 if isinstance(item, str) else 0)
        if budget < 0:
            _check_size(LARGEST_VALUE + 1)
    return value


def _concat(parts: Iterable[str]) -> str:
    pieces = list(parts)
    _check_size(sum(map(len, pieces)))
    return "".join(pieces)


def _text_of(value: Any) -> str:
    return str(_bounded(value))


def _join(value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    if attribute is not None:
        items = [item[attribute] for item in items]
    texts = [_text_of(item) for item in items]
    _check_size(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


def _replace(value: Any, old: str, new: str, count: int = -1) -> str:
    text = _text_of(value)
    _check_size(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    if indent is not None and not 0 <= indent <= 8:
        raise SecurityError(f"the chat template indents JSON by {indent}, which is not allowed")
    return json.dumps(_bounded(value), ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(str(message)[:200])


def _strftime_now(form: str) -> str:
    if len(form) > 100 or _STRFTIME.fullmatch(form) is None:
        raise SecurityError("the chat template asks for an unusual date format")
    return datetime.now().strftime(form)
