"""`--kv-bits` reaches the cache, and the plan."""

from __future__ import annotations

import pytest
from command_line import Run

from mlx_mistral import generate, load


@pytest.mark.parametrize("bits", [8, 4])
def test_the_plan_is_of_so_many_bits(run: Run, bits: int) -> None:
    flags = ["demo", "--json", "--dtype", "float32"]
    full, quantized = run("fit", *flags).json, run("fit", *flags, "--kv-bits", str(bits)).json
    assert (full["kv_bits"], quantized["kv_bits"]) == (None, bits)
    # Heads of 32 float32 numbers: one group, whose scale and bias have 16 bits each.
    assert quantized["cache_bytes"] * 32 * 32 == full["cache_bytes"] * (32 * bits + 32)


def test_a_reply_is_that_of_the_quantized_cache(run: Run) -> None:
    model, tokenizer = load("demo", dtype="float32")
    flags = ["--raw", "--max-tokens", "24", "--dtype", "float32", "--json", "-p", "Sliding"]
    told = run("generate", *flags, "--kv-bits", "4").json["text"]
    assert told == generate(model, tokenizer, "Sliding", max_tokens=24, kv_bits=4)
