"""Asks the demo model what it has never seen: `python -m mlx_mistral.demo.evaluate FOLDER`.

Every reply is decoded greedily through the runtime's own model and rotating caches, in float32.
A reply counts as right only if it equals an accepted reply to the character.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from mlx_mistral.checkpoint import load_model
from mlx_mistral.demo import model_path
from mlx_mistral.demo.architecture import WINDOW, model_config
from mlx_mistral.demo.batches import EOS, ChatEncoder
from mlx_mistral.demo.corpus import Turn
from mlx_mistral.demo.held_out import Question, questions
from mlx_mistral.demo.phrasebook import read
from mlx_mistral.generation import BatchGenerator
from mlx_mistral.model import Model

_MAX_REPLY_TOKENS = 72
_BATCH = 32


@dataclass
class Score:
    """Right answers out of all."""

    right: int = 0
    asked: int = 0

    def add(self, is_right: bool) -> None:
        self.right += is_right
        self.asked += 1

    def __str__(self) -> str:
        return f"{self.right / max(1, self.asked):.1%} ({self.right} of {self.asked})"


def answer(
    model: Model, encoder: ChatEncoder, asked: Sequence[Question], kv_bits: int | None = None
) -> list[str]:
    """The model's greedy replies, in order."""
    by_length = sorted(range(len(asked)), key=lambda i: len(asked[i].prompt))
    replies = [""] * len(asked)
    for start in range(0, len(by_length), _BATCH):
        chosen = by_length[start : start + _BATCH]
        rows = reply_batch(model, [asked[i].prompt for i in chosen], kv_bits)
        for i, ids in zip(chosen, rows, strict=True):
            replies[i] = encoder.decode(ids)
    return replies


def reply_batch(
    model: Model, prompts: Sequence[list[int]], kv_bits: int | None = None
) -> list[list[int]]:
    """Greedy replies without the end token, to prompts of different lengths."""
    replies: list[list[int]] = [[] for _ in prompts]
    batch = BatchGenerator(model, max_batch=_BATCH, kv_bits=kv_bits)
    for prompt in prompts:
        batch.insert(prompt, max_tokens=_MAX_REPLY_TOKENS)
    while batch:
        for new in batch.next():
            replies[new.id].append(new.token)
            if new.token == EOS:
                batch.remove(new.id)
    return [row[: row.index(EOS)] if EOS in row else row for row in replies]


def groups(question: Question) -> Iterator[str]:
    """The lines of the report that a question counts in."""
    turn = question.turn
    if turn.kind != "recall":
        group = turn.kind
        if group in read("topics", turn.language):
            yield "topics"
            yield f"topics, {_novelty(turn)}"
            yield f"topic {group}"
            group = "topics"
        yield f"{group}, {turn.language}"
        return
    first = (question.distance - 1) // WINDOW
    reach = model_config().n_layers
    where = "one window" if first < 1 else "layers x window" if first < reach else "beyond"
    yield f"recall: {where}"
    yield f"recall: {where}, {turn.language}"
    yield f"recall at {first * WINDOW + 1:3d} to {(first + 1) * WINDOW} tokens"
    if turn.values[0] not in read("facts", turn.language)[turn.slots[0]].phrases["values"]:
        yield f"recall: {where}, invented names"


def last_word(reply: str) -> str:
    """The result of a worked sum."""
    return reply.split()[-1] if reply.strip() else ""


def _novelty(turn: Turn) -> str:
    fixed = {"ask", "plain"} & set(read("topics", turn.language)[turn.kind].phrases)
    return "new wrapping of a fixed question" if fixed else "new pair of frame and subject"


def main() -> None:
    """Evaluates a folder; prints a Markdown table, and wrong replies on stderr if asked to."""
    parser = argparse.ArgumentParser(description="Evaluate the demo model.")
    parser.add_argument("folder", type=Path, nargs="?", default=model_path())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=10, help="10 asks about 2,400 questions")
    parser.add_argument("--wrong", action="store_true", help="show wrong replies")
    arguments = parser.parse_args()
    model = load_model(arguments.folder, dtype=mx.float32)
    encoder = ChatEncoder(arguments.folder / "tokenizer.model.v3")
    asked = questions(encoder, seed=arguments.seed, scale=arguments.scale)
    scores: dict[str, Score] = defaultdict(Score)
    for question, reply in zip(asked, answer(model, encoder, asked), strict=True):
        is_right = reply in question.turn.accepted
        for group in groups(question):
            scores[group].add(is_right)
        if question.turn.kind == "sum":
            scores["sum, the number alone"].add(last_word(reply) == last_word(question.turn.reply))
        if arguments.wrong and not is_right:
            print(
                f"{question.turn.kind} {question.distance}: {question.turn.user!r} -> {reply!r}, "
                f"not {question.turn.reply!r}",
                file=sys.stderr,
            )
    print("| | right |\n| --- | --- |")
    for group in sorted(scores):
        print(f"| {group} | {scores[group]} |")


if __name__ == "__main__":
    main()
