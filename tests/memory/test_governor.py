"""A budget holds: the peak stays below it, and what gives way does so in the stated order."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import mlx.core as mx
import pytest

from mlx_mistral import Chat, stream_generate
from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.errors import MemoryBudgetError, MlxMistralError
from mlx_mistral.generation.speculate import Counts, NgramDrafter
from mlx_mistral.generation.speculate.length import LENGTHS, DraftLength
from mlx_mistral.memory.governor import Governor
from mlx_mistral.memory.pass_needs import SMALLEST_CHUNK, PassNeeds
from mlx_mistral.memory.workspace import ID_BYTES, OTHER_BYTES
from mlx_mistral.model import Model
from tests.memory.test_plan import scaled_config
from tests.tiny import MOE, LetterTokenizer, random_ids, tiny_model

PROMPT, REPLY = 500, 40
"""Buffers grow at 512, when a little is decoded."""
ORDER = ("chunks", "kept for reuse", "8 bits", "4 bits", "the reply ends")
SHAPES: dict[str, dict[str, Any]] = {
    "full": {},
    "window": {"sliding_window": 520},
    "mixed windows": {"_sliding_window": [None, 300]},
    "mixtral": MOE,
}
"""The windows wrap in the prompt, and in the reply."""
CACHES: dict[str, Any] = {"n_layers": 8, "n_kv_heads": 8}
"""Enough keys and values to need more than the prefill of a short prompt."""


def set_budget(model: Model, spare_bytes: int) -> None:
    """Give a budget of some bytes more than MLX holds after garbage collection."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    model.budget_bytes = mx.get_active_memory() + spare_bytes
    mx.reset_peak_memory()


def spare_for(model: Model, prompt: int) -> tuple[int, int]:
    """Return a budget beside the weights that a prompt fits, and the tokens that outgrow it.

    Both hold once every step has been taken, with caches of 4 bits: the budget is a byte too small
    for the first buffers that need more than the prompt.
    """
    needs, bits = PassNeeds(model=model), min(KV_BITS)

    def needed(n_new: int, end: int) -> int:
        caches = needs.held(end, bits) + needs.copied(end, bits, n_copies=1)
        return caches + needs.workspace(n_new, end, bits)

    enough = needed(SMALLEST_CHUNK, prompt) + prompt * ID_BYTES + OTHER_BYTES
    end = next(n for n in range(256, 1 << 20, 256) if needed(1, n + 1) > enough and n > prompt)
    return needed(1, end + 1) - 1, end


class Run:
    """A text of a model with so many bytes beside its weights."""

    def __init__(
        self,
        model: Model,
        spare_bytes: int,
        *,
        prompt: int = PROMPT,
        reply: int = REPLY,
        **options: Any,
    ) -> None:
        set_budget(model, spare_bytes)
        assert model.budget_bytes is not None
        self.told: list[str] = []
        self.cache = model.make_cache()
        self.ids: list[int] = []
        self.reason: str | None = None
        for response in stream_generate(
            model, None, random_ids(prompt, 266), max_tokens=reply, prompt_cache=self.cache,
            tell=self.told.append, **options,
        ):  # fmt: skip
            self.ids.append(response.token)
            self.reason = response.finish_reason
        self.over = mx.get_peak_memory() - model.budget_bytes

    @property
    def steps(self) -> list[str]:
        return [next(step for step in ORDER if step in line) for line in self.told]


@pytest.fixture
def full() -> Iterator[Model]:
    model = tiny_model(scaled_config())
    yield model
    mx.clear_cache()


@pytest.mark.parametrize(
    ("shape", "spare_bytes"),
    [("full", 1_850_000), ("window", 1_950_000), ("mixed windows", 2_050_000),
     ("mixtral", 2_050_000)],
)  # fmt: skip
def test_the_peak_stays_inside_and_steps_come_in_their_order(shape: str, spare_bytes: int) -> None:
    run = Run(tiny_model(scaled_config(**SHAPES[shape])), spare_bytes)
    assert run.over <= 0
    assert run.steps == [step for step in ORDER if step in run.steps]
    assert run.reason == "length"
    assert len(run.ids) == REPLY or run.steps[-1] == ORDER[-1]


def test_every_step_is_taken_and_the_text_goes_on_from_what_is_left() -> None:
    model, prompt = tiny_model(scaled_config(**CACHES)), 100
    spare_bytes, end = spare_for(model, prompt)
    run = Run(model, spare_bytes, prompt=prompt, reply=2 * end)
    assert run.over <= 0
    assert run.steps == list(ORDER)
    assert run.reason == "length"
    assert {cache.kv_bits for cache in run.cache} == {4}
    assert {cache.offset for cache in run.cache} == {end} == {prompt + len(run.ids) - 1}
    model.budget_bytes = None
    more = stream_generate(model, None, [run.ids[-1]], max_tokens=3, prompt_cache=run.cache)
    assert len(list(more)) == 3


def test_until_the_cache_is_quantized_the_text_is_the_same(full: Model) -> None:
    narrow = Run(full, 2_500_000)
    assert narrow.steps == [ORDER[0]]
    wide = Run(full, 1 << 40)
    assert wide.told == []
    assert narrow.ids == wide.ids


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_read(full: Model) -> None:
    with pytest.raises(MemoryBudgetError, match="500 tokens do not fit the memory budget"):
        Run(full, 500_000)


def test_a_prompt_is_refused_before_it_is_begun_or_read_to_its_end() -> None:
    """Its ids take memory too: with a window, more than its cache does."""

    def note(read: list[int], n: int, _: int) -> None:
        read.append(n)

    model = tiny_model(scaled_config(sliding_window=16))
    enough, refused = 1 << 20, 0
    while enough - refused > 512:
        spare, read = (enough + refused) // 2, list[int]()
        try:
            Run(model, spare, prompt=1500, reply=1, progress=partial(note, read))
        except MemoryBudgetError:
            assert not any(read), f"refused after {read[-1]} tokens, with {spare} bytes"
            refused = spare
        else:
            enough = spare
    assert refused


@pytest.mark.parametrize("spare_bytes", [500_000, 1_190_000])
def test_refused_or_stepped_down_mlx_keeps_for_reuse_what_it_did_before(
    full: Model, spare_bytes: int
) -> None:
    before = mx.set_cache_limit(1 << 20)
    try:
        with contextlib.suppress(MemoryBudgetError):
            assert Run(full, spare_bytes, prompt=250, reply=20).steps
        assert mx.set_cache_limit(before) == 1 << 20
    finally:
        mx.set_cache_limit(before)


def test_drafts_stay_inside_as_well(full: Model) -> None:
    run = Run(full, 1_850_000, speculate=True)
    assert run.over <= 0
    assert run.steps == [step for step in ORDER if step in run.steps]
    assert "8 bits" in run.steps


@pytest.mark.parametrize(
    ("shape", "sampling"),
    [("full", {}), ("window", {"temp": 1.0, "top_p": 0.9, "repetition_penalty": 1.1})],
)
def test_passes_that_check_long_drafts_stay_inside(
    shape: str, sampling: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DraftLength, "choose", lambda *_: LENGTHS[-1])
    monkeypatch.setattr(NgramDrafter, "match", lambda _: 8)
    monkeypatch.setattr(NgramDrafter, "propose", lambda _, n, __: [7] * n)
    model = tiny_model(scaled_config(**SHAPES[shape], vocab_size=3000))
    for spare_bytes, reply in ((1_200_000, 240), (2_300_000, 40)):
        counts, drafting = Counts(), {"speculate": True, **sampling}
        run = Run(model, spare_bytes, prompt=20, reply=reply, draft_counts=counts, **drafting)
        assert run.over <= 0
    assert counts.drafted > 20 * LENGTHS[-1]


@pytest.mark.parametrize("what", ["check", "chunk", "may_go_on"])
def test_a_reckoning_that_no_step_satisfies_ends_in_an_error(
    full: Model, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Governor, "_fits", lambda *_: False)
    monkeypatch.setattr(Governor, "_could_fit", lambda *_: what != "check")
    monkeypatch.setattr(Governor, "_step_down", lambda *_: True)
    governor = Governor(full, full.make_cache(), 1 << 40, tell=lambda _: None)
    calls = {"check": lambda: governor.check(100), "chunk": lambda: governor.chunk(100),
             "may_go_on": governor.may_go_on}  # fmt: skip
    with pytest.raises(MlxMistralError, match="a mistake in the program"):
        calls[what]()


def test_a_cache_in_a_tuple_is_not_replaced(full: Model) -> None:
    set_budget(full, 1_350_000)
    told: list[str] = []
    cache = tuple(full.make_cache())
    ids = random_ids(250, 266)
    for _ in stream_generate(full, None, ids, max_tokens=300, prompt_cache=cache, tell=told.append):
        pass
    assert {one.kv_bits for one in cache} == {None}
    assert "the reply ends" in told[-1]


def test_a_chat_goes_on_after_its_cache_was_narrowed() -> None:
    model = tiny_model(scaled_config(**SHAPES["mixed windows"]))
    told: list[str] = []
    chat = Chat(model, LetterTokenizer(), max_tokens=8, tell=told.append)  # type: ignore[arg-type]
    set_budget(model, 2_500_000)
    assert model.budget_bytes is not None
    for turn in range(3):
        for _ in chat.send(str(turn) * 200):
            pass
    assert mx.get_peak_memory() <= model.budget_bytes
    assert chat.cache[0].kv_bits in (8, 4)
    assert chat.reused_tokens > 0
    n_messages = len(chat.messages)
    with pytest.raises(MemoryBudgetError):
        list(chat.send("x" * 9000))
    assert len(chat.messages) == n_messages
    assert len(list(chat.send("!"))) >= 1


DEMO = """
import gc, json, sys
import mlx.core as mx
from mlx_mistral import Chat, load

def peak(memory):
    told = []
    model, tokenizer = load("demo", memory=memory, tell=told.append)
    chat = Chat(model, tokenizer, max_tokens=12, tell=told.append)
    for text in ("Who are you?", "Count to three. " * 60, "And in French?"):
        for last in chat.send(text):
            pass
    said = len(chat.messages), last.finish_reason
    return mx.get_peak_memory(), model.budget_bytes, mx.get_active_memory(), told, *said

for memory in sys.argv[1:]:
    print(json.dumps(peak(memory)))
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    assert mx.get_active_memory() < 1000
    mx.reset_peak_memory()
"""


def test_the_demo_stays_inside_from_loading_on() -> None:
    whole, streamed = "15600kB", "9MB"
    done = subprocess.run(
        [sys.executable, "-c", DEMO, whole, streamed], capture_output=True, text=True, check=True
    )
    for line, is_streamed in zip(done.stdout.splitlines(), (False, True), strict=True):
        peak, budget, held, told, n_messages, reason = json.loads(line)
        assert held < peak <= budget
        assert is_streamed == any("experts are held at a time" in line for line in told)
        assert any("smaller chunks" in line for line in told)
        assert (n_messages, reason) in {(6, "stop"), (6, "length")}
