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
from functools import reduce, wraps
from types import FrameType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

LARGEST_TEMPLATE_CHARS = 1_000_000
LARGEST_VALUE = 8_000_000
"""Characters of a text, or items of a list: more than any context holds."""
LARGEST_TOTAL = 200_000_000
"""The same, over all values that one rendering makes."""
LARGEST_INTEGER_BITS = 4096
LARGEST_TREE = 100_000
"""Items of nested lists and objects that are written as one text."""
LONGEST_SECONDS = 10.0

_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
    *("int", "items", "last", "length", "list", "lower", "map", "max", "min", "reject"),
    *("rejectattr", "reverse", "round", "safe", "select", "selectattr", "sort", "title", "trim"),
    *("unique", "upper"),
)
_GROWING_METHODS = frozenset(
    ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "translate", "zfill")
)
_SPLITTING_METHODS = frozenset(("partition", "rpartition", "rsplit", "split", "splitlines"))
_SPLIT_WEIGHT = 30  # bytes that a short text of its own takes
_LIST_WEIGHT = 8  # bytes that a place in a list takes
_STRFTIME = re.compile(r"[^%]*(?:%[-a-zA-Z%][^%]*)*")


class ChatTemplate:
    """One template, compiled once."""

    def __init__(self, source: str) -> None:
        """Raises: TemplateError and others of jinja2: the template is malformed."""
        if len(source) > LARGEST_TEMPLATE_CHARS:
            raise SecurityError(
                f"the chat template has {len(source)} characters, which is too long"
            )
        self._sandbox = _Sandbox()
        self._template = self._sandbox.from_string(source)

    def render(self, variables: Mapping[str, Any]) -> str:
        """The chat as the template writes it.

        Raises: TemplateError and others: the template refuses the chat, fails, or asks too much.
        """
        self._sandbox.spent = 0
        with _deadline(LONGEST_SECONDS):
            return self._template.render(variables)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with every operation counted that makes a new text or list."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        self.spent = 0
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            optimized=False,  # constants are folded at compile time otherwise, before the deadline
            finalize=_finite,
        )
        self.filters = {name: self._counted(FILTERS[name]) for name in _FILTERS} | {
            "join": self._join,
            "replace": self._replace,
            "string": _text_of,
            "tojson": _to_json,
        }
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
        self.concat = self._concat  # type: ignore[method-assign]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _ConcatAsAdd().visit(tree)
        return tree

    def _spend(self, size: int, *, weight: int = 1) -> None:
        """Counts a new value of `size` characters, or of items that weigh more than those."""
        self.spent += size * weight
        if size > LARGEST_VALUE or self.spent > LARGEST_TOTAL:
            raise SecurityError(
                f"the chat template makes a value of {size} items, which is too much"
            )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _GROWING_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format`, not even jinja2's safe one: widths can be anything."""

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, slice):
            self._spend(_length(obj))
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            if operator == "**" and left.bit_length() * abs(right) > LARGEST_INTEGER_BITS:
                raise SecurityError("the chat template raises a number to too high a power")
            if operator == "*":
                self._spend((left.bit_length() + right.bit_length()) // 8)
        elif operator == "+":
            self._spend(_length(left) + _length(right))
        elif operator == "*":
            self._spend(_times(left) * _times(right))
        elif operator == "%" and isinstance(left, str):
            raise SecurityError("the chat template formats text with %, which is not allowed")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name == "replace":
            return __self._replace(owner, *args)
        if isinstance(owner, str) and name == "join":
            return __self._join(args[0], owner)
        weight = _SPLIT_WEIGHT if name in _SPLITTING_METHODS else 1
        __self._spend(_length(owner) + sum(map(_length, args)), weight=weight)
        return super().call(__context, __obj, *args, **kwargs)

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, a filter, paid for by the length of what it is applied to."""

        @wraps(function)  # with the marks that tell jinja2 what to pass first
        def paid(*args: Any, **kwargs: Any) -> Any:
            self._spend(sum(map(_length, args)), weight=_LIST_WEIGHT)
            return function(*args, **kwargs)

        return paid

    def _concat(self, parts: Iterable[str]) -> str:
        pieces = []
        for part in parts:
            self._spend(len(part))
            pieces.append(part)
        text = "".join(pieces)
        if len(text) > LARGEST_VALUE:
            self._spend(len(text))
        return text

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        items = list(value)
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        texts = [_text_of(item) for item in items]
        self._spend(sum(map(len, texts)) + len(d) * len(texts))
        return d.join(texts)

    def _replace(self, value: Any, old: str, new: str, count: int | None = None) -> str:
        text = _text_of(value)
        self._spend(len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)


class _ConcatAsAdd(NodeTransformer):
    """`a ~ b` becomes `a|string + b|string`, since the sandbox sees `+` but not `~`."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        terms: list[nodes.Expr] = [
            nodes.Filter(term, "string", [], [], None, None, lineno=node.lineno)
            for term in node.nodes
        ]
        return reduce(lambda left, right: nodes.Add(left, right, lineno=node.lineno), terms)


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


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes | list | tuple | dict) else 0


def _times(value: Any) -> int:
    """What an operand contributes to the length of a product."""
    if isinstance(value, int):
        return min(abs(value), LARGEST_TOTAL + 1)
    return max(1, _length(value))


def _finite(value: Any) -> Any:
    """`value`, if it is data whose text is bounded: a list may hold itself many times over."""
    pending, seen = [value], 0
    while pending:
        item = pending.pop()
        seen += 1
        if isinstance(item, Mapping):
            pending.extend(item.keys())
            pending.extend(item.values())
        elif isinstance(item, list | tuple | set):
            pending.extend(item)
        elif isinstance(item, str):
            seen += len(item) * LARGEST_TREE // LARGEST_VALUE
        elif not isinstance(item, int | float | Undefined | None):
            raise SecurityError(f"the chat template writes a {type(item).__name__} as text")
        if seen > LARGEST_TREE or len(pending) > LARGEST_TREE:
            raise SecurityError("the chat template writes a list without measure")
    return value


def _text_of(value: Any) -> str:
    return str(_finite(value))


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    if indent is not None and not 0 <= indent <= 8:
        raise SecurityError(f"the chat template indents JSON by {indent}, which is not allowed")
    return json.dumps(_finite(value), ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> None:
    raise TemplateError(str(message)[:200])


def _strftime_now(form: str) -> str:
    if len(form) > 100 or _STRFTIME.fullmatch(form) is None:
        raise SecurityError("the chat template asks for an unusual date format")
    return datetime.now().strftime(form)
