"""What quantized caches cost in quality, on the demo model.

`python benchmarks/kv_quality.py` prints a Markdown table: how far next-token distributions move
from those of the full cache (KL divergence in nats, and how often the likeliest token stays),
and how often a fact is recalled, by how many tokens ago it was told. The texts are the demo's
held-out questions, which it was not trained on; recall counts replies right to the character.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence

import mlx.core as mx

from mlx_mistral.checkpoint import load_model
from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.demo import model_path
from mlx_mistral.demo.architecture import WINDOW
from mlx_mistral.demo.batches import ChatEncoder
from mlx_mistral.demo.evaluate import Score, answer
from mlx_mistral.demo.held_out import Question, questions
from mlx_mistral.model import Model

CHUNK = 128
MAX_TEXTS = 60
"""Whose distributions are compared: the longest ones."""


def distance_of(question: Question) -> str:
    window = (question.distance - 1) // WINDOW
    return f"recall at {window * WINDOW + 1} to {(window + 1) * WINDOW} tokens"


def recall(
    model: Model, encoder: ChatEncoder, asked: Sequence[Question], kv_bits: int | None
) -> dict[str, Score]:
    scores: dict[str, Score] = defaultdict(Score)
    for question, reply in zip(asked, answer(model, encoder, asked, kv_bits), strict=True):
        scores[distance_of(question)].add(reply in question.turn.accepted)
    return scores


def log_probabilities(model: Model, ids: Sequence[int], kv_bits: int | None) -> mx.array:
    """Shapes: T ids -> (T, vocab)."""
    cache, out = model.make_cache(kv_bits=kv_bits), []
    for start in range(0, len(ids), CHUNK):
        logits = model(mx.array([list(ids[start : start + CHUNK])]), cache)[0]
        out.append(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        mx.eval(out[-1])
    return mx.concatenate(out)


def divergence(model: Model, texts: Sequence[list[int]], kv_bits: int) -> tuple[float, float]:
    """Mean KL divergence in nats, and the share of places where the likeliest token stays."""
    kl = same = n = 0.0
    for ids in texts:
        full, quantized = (log_probabilities(model, ids, bits) for bits in (None, kv_bits))
        kl += (mx.exp(full) * (full - quantized)).sum().item()
        same += (full.argmax(axis=-1) == quantized.argmax(axis=-1)).sum().item()
        n += len(ids)
    return kl / n, same / n


def main() -> None:
    parser = argparse.ArgumentParser(description="Quality of quantized caches, on the demo.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=int, default=10, help="10 asks about 2,400 questions")
    arguments = parser.parse_args()
    model = load_model(model_path(), dtype=mx.float32)
    encoder = ChatEncoder(model_path() / "tokenizer.model.v3")
    asked = questions(encoder, seed=arguments.seed, scale=arguments.scale)
    texts = sorted((one.prompt for one in asked), key=len)[-MAX_TEXTS:]
    recalled = [one for one in asked if one.turn.kind == "recall"]
    columns = (None, *KV_BITS)
    moved = {bits: divergence(model, texts, bits) for bits in KV_BITS}
    scores = {bits: recall(model, encoder, recalled, bits) for bits in columns}
    print("| | full | 8 bits | 4 bits |\n| --- | --- | --- | --- |")
    for i, (name, spec) in enumerate((("KL, nats", ".5f"), ("likeliest token stays", ".2%"))):
        cells = [format(moved[bits][i], spec) for bits in KV_BITS]
        print(f"| {name} | | {cells[0]} | {cells[1]} |")
    for name in sorted(scores[None], key=lambda name: int(name.split()[2])):
        print(f"| {name} | {' | '.join(str(scores[bits][name]) for bits in columns)} |")
    n_tokens = sum(map(len, texts))
    print(f"\n{len(texts)} texts of {n_tokens} tokens; {len(recalled)} questions; seed "
          f"{arguments.seed}")  # fmt: skip


if __name__ == "__main__":
    main()
