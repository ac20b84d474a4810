"""Chat templates come from strangers: they are bounded in reach, memory and time."""

from __future__ import annotations

import sys
import time

import pytest
from jinja2 import TemplateError

from mlx_mistral.text import template as module
from mlx_mistral.text.template import ChatTemplate


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}\n    {{ m.content }}\n{% endfor %}\n", "    a\n    b\n"),
        ("{%- for m in messages %}{{ loop.index0 }}{{ m['content'] }}{% endfor -%}", "0a1b"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}x{% endfor %}", "x"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "a"}, {"content": "b"}]'),
        ("{{ {'é': 1} | tojson(indent=2) }}", '{\n  "é": 1\n}'),
        ("{{ 1 ~ 'a' ~ none ~ [1] }}", "1aNone[1]"),
        ("{{ ('a,b'.split(',')) | join('-') }}{{ '-'.join(['x', 'y']) }}", "a-bx-y"),
        ("{{ messages | map(attribute='content') | join('|') }}", "a|b"),
        ("{{ messages | join('|', attribute='content') }}", "a|b"),
        ("{{ 'aXb' | replace('X', '--') }}{{ 'aXb'.replace('X', '') }}", "a--bab"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 %}"
         "{% endfor %}{{ ns.n * 5000 * 5000 }}", "100000000"),
        ("{{ '=' * 5 }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ [1] + [2] }}", "=====31024[1, 2]"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) }}{% set y %}z{% endset %}{{y}}", "<1>z"),
        ("{{ messages[0].content.strip() | upper }}{{ none_such }}{{ 1 is defined }}", "ATrue"),
        ("{{ strftime_now('%Y') | int > 2000 }}", "True"),
        ("{{ '  x ' | trim }}{{ messages | length }}{{ ('a', 'b') | first }}", "x2a"),
    ],
)  # fmt: skip
def test_what_chat_templates_use_works(source, expected):
    messages = [{"role": "user", "content": "a"}, {"content": "b"}]
    assert ChatTemplate(source).render({"messages": messages}) == expected


DOUBLE = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
HOSTILE = {
    "globals": "{{ raise_exception.__globals__.sys }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "changing the chat": "{{ messages.append(1) }}",
    "repeated text": "{{ 'a' * 10 ** 10 }}",
    "repeated list": "{{ [0] * 10 ** 10 }}",
    "list in a variable": "{% set x = [0] * 1000000000 %}",
    "huge power": "{{ 10 ** 10000000000 }}",
    "chained product": "{{ 'a' * 1000000 * 1000000 }}",
    "padded": "{{ 'a' | center(10000000000) }}",
    "justified": "{{ 'a'.ljust(10000000000) }}",
    "zeroes": "{{ '1'.zfill(10000000000) }}",
    "tabs": "{{ '\t'.expandtabs(10000000000) }}",
    "format": "{{ '{:10000000000}'.format(1) }}",
    "percent": "{{ '%10000000000d' % 1 }}",
    "date": "{{ strftime_now('%10000000000d') }}",
    "filter format": "{{ '%10000000000d' | format(1) }}",
    "indent": "{{ [1] | tojson(indent=10000000000) }}",
    "doubled by ~": DOUBLE + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubled by +": DOUBLE + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubled by join": DOUBLE + "{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "doubled by method": DOUBLE + "{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "doubled by replace": DOUBLE + "{% set ns.x = ns.x | replace('a', 'aa') %}{% endfor %}",
    "doubled by block": DOUBLE
    + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubled by macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}"
    + DOUBLE
    + "{% set ns.x = f(ns.x) %}{% endfor %}",
    "nested list": DOUBLE + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested list as json": DOUBLE + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
    "nested list in itself": DOUBLE + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns }}",
    "long range": "{% for i in range(1000000000) %}{% endfor %}",
    "lipsum": "{{ lipsum(n=1000000) }}",
    "many texts": "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}"
    "{% set ns.x = ns.x + ['a' * 7000000] %}{% endfor %}",
    "many copies": "{% set t = 'a' * 7000000 %}{% set ns = namespace(x=[]) %}"
    "{% for i in range(99999) %}{% set ns.x = ns.x + [t | upper, t[1:], t.strip('b')] %}"
    "{% endfor %}",
    "many lists": "{% set t = 'a' * 7000000 %}{% set ns = namespace(x=[]) %}"
    "{% for i in range(99999) %}{% set ns.x = ns.x + [t | list] %}{% endfor %}",
    "many parts": "{% set t = 'a ' * 3500000 %}{% set ns = namespace(x=[]) %}"
    "{% for i in range(99999) %}{% set ns.x = ns.x + t.split() %}{% endfor %}",
    "long output": "{% for i in range(99999) %}{{ 'a' * 100000 }}{% endfor %}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "broken": "{% for %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_template_is_stopped(case):
    start = time.monotonic()
    with pytest.raises((TemplateError, RecursionError, OverflowError, TypeError)):
        ChatTemplate(HOSTILE[case]).render({"messages": [{"content": "a"}]})
    assert time.monotonic() - start < 5


def test_a_template_without_end_is_stopped_in_time(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_SECONDS", 0.2)
    loops = "".join("{% for _ in range(99999) %}" for _ in range(3)) + "{% endfor %}" * 3
    before = sys.gettrace()
    with pytest.raises(TemplateError, match=r"ran longer than 0\.2 seconds"):
        ChatTemplate(loops).render({})
    assert sys.gettrace() is before


def test_a_template_too_long_to_be_one_is_refused():
    with pytest.raises(TemplateError, match="too long"):
        ChatTemplate("x" * 1_000_001)
