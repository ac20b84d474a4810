"""What drafts from the text itself gain, and what they cost where there is nothing to copy.

Copying: the demo is asked the same thing five times in one chat; the replies from the third on
say again what was said. First replies have nothing to copy; neither has free text, greedy from
where a text drawn at temperature 1 ended, or drawn on at temperature 1. A random model has free
text alone.

Every reply is made three ways in turn, in another order each time: with drafts, without, and by
mlx-lm's own loop over the same model (it cannot load the demo itself, whose heads are not
dim / heads wide; at temperature 1 it would draw another text). Tokens must be equal. Each trial
gives one ratio for each kind of text, by the clock and by processor time, which other programs
disturb less.

    python benchmarks/drafts.py [--model FOLDER] [--kind free] [--trials 5]
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import NamedTuple

import mlx.core as mx
from mlx_lm.generate import generate_step

from mlx_mistral import load
from mlx_mistral.checkpoint import load_model
from mlx_mistral.completion import stream_generate
from mlx_mistral.demo import model_path
from mlx_mistral.generation.speculate import Counts
from mlx_mistral.model import Model
from mlx_mistral.text import Tokenizer

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
KINDS = ("copying", "first replies", "free", "free, temperature 1")
ROUNDS = 5
FREE_TEXTS, FREE_TOKENS = 4, 200


class Took(NamedTuple):
    """Seconds after the first token."""

    clock: float
    processor: float


class Work(NamedTuple):
    """A reply to make. seed: None: greedy."""

    kind: str
    ids: list[int]
    n_tokens: int
    seed: int | None = None


@dataclass(slots=True)
class Totals:
    """What the replies of one kind took in one trial."""

    took: defaultdict[str, list[Took]] = field(default_factory=lambda: defaultdict(list))
    tokens: int = 0
    passes: int = 0

    def ratio(self, other: str, part: int) -> float | None:
        """How much longer the other way took; None: it was not gone."""
        if other not in self.took:
            return None
        return sum(t[part] for t in self.took[other]) / sum(t[part] for t in self.took["drafts"])


def timed(tokens: Iterable[int]) -> tuple[list[int], Took]:
    made: list[int] = []
    began = 0.0, 0.0
    for token in tokens:
        if not made:
            began = time.perf_counter(), time.process_time()
        made.append(token)
    return made, Took(time.perf_counter() - began[0], time.process_time() - began[1])


def ours(model: Model, work: Work, counts: Counts | None = None) -> Iterable[int]:
    speculate, temp = counts is not None, 0.0 if work.seed is None else 1.0
    for response in stream_generate(
        model,
        None,
        work.ids,
        max_tokens=work.n_tokens,
        temp=temp,
        seed=work.seed,
        speculate=speculate,
        draft_counts=counts,
    ):
        yield response.token


def theirs(model: Model, work: Work) -> Iterable[int]:
    cache = model.make_cache()
    ids = mx.array(work.ids)
    for token, _ in generate_step(ids, model, max_tokens=work.n_tokens, prompt_cache=cache):
        yield int(token)


def measure(model: Model, work: Work, turn: int, totals: Totals) -> None:
    """One reply, two or three ways, beginning with another one each turn."""
    counts = Counts()
    ways: dict[str, Callable[[], Iterable[int]]] = {
        "drafts": lambda: ours(model, work, counts),
        "plain": lambda: ours(model, work),
    }
    if work.seed is None:
        ways["mlx-lm"] = lambda: theirs(model, work)
    names, texts = list(ways), []
    for i in range(len(names)):
        name = names[(turn + i) % len(names)]
        text, took = timed(ways[name]())
        totals.took[name].append(took)
        texts.append(text)
    if any(text != texts[0] for text in texts):
        raise SystemExit(f"texts of the same {work.n_tokens} tokens differ ({work.kind})")
    totals.tokens += counts.tokens - 1
    totals.passes += counts.passes


def chats(model: Model, tokenizer: Tokenizer) -> Iterable[Work]:
    """First replies, and replies from the third on."""
    for question in QUESTIONS:
        messages: list[dict[str, str]] = []
        for round_ in range(ROUNDS):
            messages.append({"role": "user", "content": question})
            ids = tokenizer.encode_chat(messages)
            text = [r.token for r in stream_generate(model, tokenizer, ids, max_tokens=100)]
            if round_ != 1:
                yield Work("copying" if round_ else "first replies", ids, len(text))
            messages.append({"role": "assistant", "content": tokenizer.decode(text[:-1])})


def free_texts(model: Model) -> Iterable[Work]:
    for seed in range(FREE_TEXTS):
        start = [1, *(100 + seed + i for i in range(8))]
        drawn = stream_generate(model, None, start, max_tokens=60, temp=1.0, seed=seed)
        ids = [*start, *(r.token for r in drawn)]
        yield Work("free", ids, FREE_TOKENS)
        yield Work("free, temperature 1", ids, FREE_TOKENS, seed=100 + seed)


def trial(model: Model, works: Sequence[Work], turns: Iterable[int]) -> dict[str, Totals]:
    totals = {kind: Totals() for kind in KINDS if any(work.kind == kind for work in works)}
    for work, turn in zip(works, turns, strict=False):
        measure(model, work, turn, totals[work.kind])
    return totals


def cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{median(known):.2f} ({min(known):.2f} to {max(known):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", metavar="FOLDER", help="a model in place of the demo")
    parser.add_argument("--kind", choices=KINDS, action="append", help="kinds of text; all")
    parser.add_argument("--trials", type=int, default=5)
    args = parser.parse_args()
    if args.model:
        model = load_model(args.model, dtype="float32")
        works = list(free_texts(model))
    else:
        model, tokenizer = load(model_path(), dtype="float32")
        works = [*chats(model, tokenizer), *free_texts(model)]
    works = [work for work in works if not args.kind or work.kind in args.kind]
    turns = count()
    trial(model, works, turns)  # warm-up
    trials = [trial(model, works, turns) for _ in range(args.trials)]
    print(f"load average {os.getloadavg()[0]:.1f}, {args.trials} trials, median (range)\n")
    heads = ("against plain", "by processor time", "against mlx-lm's loop", "by processor time")
    print(f"| text | tokens a pass | {' | '.join(heads)} |")
    print("| --- " * (len(heads) + 2) + "|")
    for kind in trials[0]:
        rows = [one[kind] for one in trials]
        cells = [cell([row.tokens / row.passes for row in rows])]
        cells += [
            cell([r.ratio(w, part) for r in rows]) for w in ("plain", "mlx-lm") for part in (0, 1)
        ]
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
