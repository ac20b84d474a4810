"""What drafts from the text itself gain, and what they cost where there is nothing to copy.

Copying: the demo is asked the same thing five times in one chat; the replies from the third on
say again what was said. Nothing to copy: first replies, and free text drawn at temperature 1.
Every reply is made three ways in turn: with drafts, without, and by mlx-lm's own loop over the
same model (it cannot load the demo itself, whose heads are not dim / heads wide). All tokens
must be equal.

    python benchmarks/drafts.py [--trials 5]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import mlx.core as mx
from mlx_lm.generate import generate_step

from mlx_mistral import load
from mlx_mistral.completion import stream_generate
from mlx_mistral.generation.speculate import Counts
from mlx_mistral.model import Model

QUESTIONS = (
    "What is a sliding window?",
    "What can you do?",
    "How does a mixture of experts work?",
    "What is a token?",
    "What is attention?",
    "What is a cache?",
    "Qu'est-ce qu'un jeton ?",
    "What is quantization?",
    "Who are you?",
)
ROUNDS = 5
FREE_TOKENS = 200


@dataclass(slots=True)
class Totals:
    """Seconds of decoding by way, and what drafting did."""

    seconds: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    passes: int = 0

    def ratio(self, other: str) -> float:
        return self.seconds[other] / self.seconds["drafts"]


def ours(model: Model, ids: list[int], n: int, counts: Counts | None) -> tuple[list[int], float]:
    """The tokens, and the seconds after the first."""
    tokens, first = [], 0.0
    speculate = counts is not None
    for response in stream_generate(
        model, None, ids, max_tokens=n, speculate=speculate, draft_counts=counts
    ):
        first = first or time.perf_counter()
        tokens.append(response.token)
    return tokens, time.perf_counter() - first


def theirs(model: Model, ids: list[int], n: int) -> tuple[list[int], float]:
    tokens, first = [], 0.0
    for token, _ in generate_step(
        mx.array(ids), model, max_tokens=n, prompt_cache=model.make_cache()
    ):
        first = first or time.perf_counter()
        tokens.append(int(token))
    return tokens, time.perf_counter() - first


def measure(model: Model, ids: list[int], n: int, totals: Totals) -> list[int]:
    """One reply of n tokens, three ways."""
    counts = Counts()
    ways: dict[str, Callable[[], tuple[list[int], float]]] = {
        "drafts": lambda: ours(model, ids, n, counts),
        "plain": lambda: ours(model, ids, n, None),
        "mlx-lm": lambda: theirs(model, ids, n),
    }
    texts = []
    for way, run in ways.items():
        text, seconds = run()
        texts.append(text)
        totals.seconds[way] = totals.seconds.get(way, 0.0) + seconds
    if texts[0] != texts[1] or texts[1] != texts[2]:
        raise SystemExit(f"the three texts of {n} tokens differ")
    totals.tokens += counts.tokens - 1
    totals.passes += counts.passes
    return texts[0]


def trial(model: Model, tokenizer: object, free: list[list[int]]) -> dict[str, Totals]:
    """Chats of five rounds, then free texts."""
    rows = {"copying": Totals(), "first replies": Totals(), "free text": Totals()}
    for question in QUESTIONS:
        messages: list[dict[str, str]] = []
        for round_ in range(ROUNDS):
            messages.append({"role": "user", "content": question})
            ids = tokenizer.encode_chat(messages)  # type: ignore[attr-defined]
            text = [r.token for r in stream_generate(model, tokenizer, ids, max_tokens=100)]  # type: ignore[arg-type]
            kind = "first replies" if round_ == 0 else "copying"
            if round_ == 0 or round_ > 1:
                measure(model, ids, len(text), rows[kind])
            reply = tokenizer.decode(text[:-1])  # type: ignore[attr-defined]
            messages.append({"role": "assistant", "content": reply})
    for ids in free:
        measure(model, ids, FREE_TOKENS, rows["free text"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--trials", type=int, default=5)
    args = parser.parse_args()
    model, tokenizer = load("demo", dtype="float32")
    # Prompts that end where a text drawn at temperature 1 did: greedy from there, it wanders.
    free = []
    for seed in range(4):
        start = [tokenizer.bos_id, *tokenizer.encode("The")]
        drawn = stream_generate(model, None, start, max_tokens=60, temp=1.0, seed=seed)
        free.append([*start, *(r.token for r in drawn)])
    trial(model, tokenizer, free)  # warm-up
    trials = [trial(model, tokenizer, free) for _ in range(args.trials)]
    print(f"load average {os.getloadavg()[0]:.1f}, {args.trials} trials, median (range)\n")
    print("| text | tokens a pass | against plain | against mlx-lm's loop |")
    print("| --- | --- | --- | --- |")
    for kind in trials[0]:
        cells = []
        for values in (
            [t[kind].tokens / t[kind].passes for t in trials],
            [t[kind].ratio("plain") for t in trials],
            [t[kind].ratio("mlx-lm") for t in trials],
        ):
            cells.append(f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
