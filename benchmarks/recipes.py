"""The measured recipe against uniform bits at the same file sizes, on the demo model.

Prints a Markdown table and draws docs/recipes.svg:

    python benchmarks/recipes.py --plot docs/recipes.svg

The recipe, and the importance of inputs that refines its scales and biases, are measured on chats
like those of the training. All are compared with the unquantized model on questions and answers
that training never contained, some of them behind other turns.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import mlx.core as mx
from curves import Curve, draw

from mlx_mistral.checkpoint import Checkpoint, load_model
from mlx_mistral.config import QuantParams
from mlx_mistral.convert.measured import Damages, choose, measure, refine
from mlx_mistral.convert.measured.errors import rounded
from mlx_mistral.convert.measured.formats import Format, stored_bytes
from mlx_mistral.convert.plan import Matrix, matrices_of
from mlx_mistral.demo import model_path
from mlx_mistral.demo.batches import BOS, ChatEncoder, encode_chat
from mlx_mistral.demo.held_out import questions
from mlx_mistral.evaluation import Scores, evaluate
from mlx_mistral.model import Model

NAMES_AND_COLOURS = (("uniform", "#8a8a8a"), ("measured", "#d9480f"), ("refined", "#1864ab"))
BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZE = 64
TEXT_TOKENS = 256
CONTEXT, STRIDE = 512, 448


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A way to store the model, and what it does to its predictions."""

    bits_per_weight: float
    nbytes: int
    scores: Scores


def main() -> None:
    """Measures, chooses, compares, prints."""
    parser = argparse.ArgumentParser(description="The measured recipe against uniform bits.")
    parser.add_argument("--calibration-tokens", type=int, default=8192)
    parser.add_argument("--held-out-tokens", type=int, default=16384)
    parser.add_argument("--plot", type=Path, help="where the drawing goes, an SVG file")
    arguments = parser.parse_args()
    encoder = ChatEncoder(model_path() / "tokenizer.model.v3")
    checkpoint = Checkpoint(model_path())
    damages = damages_of(checkpoint, encoder, arguments.calibration_tokens)
    held_out = held_out_ids(encoder, arguments.held_out_tokens)
    comparison = Comparison(checkpoint, damages, held_out)
    sizes = []
    for bits in BITS:
        sizes.append(comparison.at_the_size_of(bits))
        print(f"{bits} bits", file=sys.stderr)
    print(divergence_table(sizes))
    print()
    print(prediction_table(comparison.exact.perplexity, sizes))
    print(
        f"\n{damages.tokens:,} tokens of calibration, {len(held_out):,} held out; mean KL of a "
        "token in nats, with its standard error."
    )
    if arguments.plot:
        arguments.plot.write_text(plot(sizes), encoding="utf-8")


def damages_of(checkpoint: Checkpoint, encoder: ChatEncoder, n_tokens: int) -> Damages:
    """Measured on chats like those of the training."""
    ids: list[int] = []
    while len(ids) < n_tokens:
        chat = encode_chat(encoder, Random(f"calibration {len(ids)}"), TEXT_TOKENS)
        ids += chat.ids[1:]
    return measure(
        checkpoint,
        ids,
        bos_id=BOS,
        text_tokens=TEXT_TOKENS,
        progress=lambda *told: print(*told, file=sys.stderr),
    )


def held_out_ids(encoder: ChatEncoder, n_tokens: int) -> list[int]:
    """Chats that end in a question and its answer, each of which training never contained."""
    asked = questions(encoder, seed=1, scale=10)
    Random(0).shuffle(asked)
    ids: list[int] = []
    for question in asked:
        ids += question.prompt[1:] + encoder.reply(question.turn)
        if len(ids) >= n_tokens:
            break
    return ids[:n_tokens]


class Comparison:
    """The demo model with its matrices rounded in memory, against itself."""

    def __init__(self, checkpoint: Checkpoint, damages: Damages, held_out: list[int]) -> None:
        self._model = load_model(model_path(), dtype=mx.float32)
        self._reference = load_model(model_path(), dtype=mx.float32)
        self._matrices = matrices_of(checkpoint.parameters)
        self._damages, self._held_out = damages, held_out
        total = sum(parameter.nbytes for parameter in checkpoint.parameters.values())
        self._fixed_bytes = total - sum(2 * matrix.size for matrix in self._matrices)
        self._parameter_count = checkpoint.headers.parameter_count
        self.exact = evaluate(self._reference, held_out, bos_id=BOS, context=CONTEXT, stride=STRIDE)

    def at_the_size_of(self, bits: int) -> tuple[Point, ...]:
        """Uniform bits in groups of 64; the recipe in as many bytes; the same refined."""
        params = QuantParams(bits=bits, group_size=GROUP_SIZE)
        uniform: dict[str, Format] = {matrix.path: params for matrix in self._matrices}
        shapes = {matrix.path: matrix.shape for matrix in self._matrices}
        chosen = choose(self._damages, shapes, self._bytes(uniform), fixed_bytes=self._fixed_bytes)
        return self._point(uniform), self._point(chosen), self._point(chosen, refined=True)

    def _bytes(self, formats: Mapping[str, Format]) -> int:
        stored = (stored_bytes(matrix.shape, formats[matrix.path]) for matrix in self._matrices)
        return self._fixed_bytes + sum(stored)

    def _point(self, formats: Mapping[str, Format], *, refined: bool = False) -> Point:
        nbytes = self._bytes(formats)
        importance = self._damages.importance if refined else {}
        with stored_in(self._model, self._matrices, formats, importance):
            scores = evaluate(
                self._model,
                self._held_out,
                bos_id=BOS,
                context=CONTEXT,
                stride=STRIDE,
                reference=self._reference,
            )
        bits_per_weight = 8 * nbytes / self._parameter_count
        return Point(bits_per_weight=bits_per_weight, nbytes=nbytes, scores=scores)


@contextmanager
def stored_in(
    model: Model,
    matrices: list[Matrix],
    formats: Mapping[str, Format],
    importance: Mapping[str, mx.array],
) -> Iterator[None]:
    """Inside, the model's weights are what a file in these formats gives back."""
    modules = dict(model.named_modules())
    exact = {matrix.path: modules[matrix.path].weight for matrix in matrices}
    for path, weight in exact.items():
        params = formats[path]
        if params is not None and path in importance:
            modules[path].weight = refined_weight(weight, params, importance[path])
        elif params is not None:
            modules[path].weight = rounded(weight, params, mx.bfloat16)
    mx.eval(model.parameters())
    try:
        yield
    finally:
        for path, weight in exact.items():
            modules[path].weight = weight


def refined_weight(weight: mx.array, params: QuantParams, importance: mx.array) -> mx.array:
    """What a file with refined scales and biases gives back."""
    packed, scales, biases = refine(weight.astype(mx.bfloat16), params, importance)
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    return mx.dequantize(packed, scales, biases, group_size=params.group_size, bits=params.bits)


def divergence_table(sizes: list[tuple[Point, ...]]) -> str:
    """Markdown, a row for each size."""
    lines = [
        "| size of uniform bits | MB | bits a weight | KL uniform | measured | times less "
        "| refined | times less |",
        "| --- " * 8 + "|",
    ]
    for bits, (uniform, measured, refined) in zip(BITS, sizes, strict=True):
        assert measured.nbytes == refined.nbytes <= uniform.nbytes
        lines.append(
            f"| {bits} | {uniform.nbytes / 1e6:.3f} | {uniform.bits_per_weight:.2f} "
            f"| {shown_kl(uniform)} | {shown_kl(measured)} | {kl(uniform) / kl(measured):.1f} "
            f"| {shown_kl(refined)} | {kl(uniform) / kl(refined):.1f} |"
        )
    return "\n".join(lines)


def prediction_table(exact_perplexity: float, sizes: list[tuple[Point, ...]]) -> str:
    """Markdown: perplexities, and how often the likeliest token stays the same."""
    lines = [
        "| size of uniform bits | perplexity uniform | measured | refined "
        "| same top token uniform | measured | refined |",
        "| --- " * 7 + "|",
    ]
    for bits, points in zip(BITS, sizes, strict=True):
        perplexities = " | ".join(f"{point.scores.perplexity:.3f}" for point in points)
        same = " | ".join(f"{point.scores.top1_agreement:.1%}" for point in points)
        lines.append(f"| {bits} | {perplexities} | {same} |")
    lines.append(f"| unquantized | {exact_perplexity:.3f} | | | | | |")
    return "\n".join(lines)


def shown_kl(point: Point) -> str:
    digits = 2 - math.floor(math.log10(kl(point)))
    return f"{kl(point):.{digits}f} ± {point.scores.kl_error:.{digits}f}"


def kl(point: Point) -> float:
    assert point.scores.kl is not None
    return point.scores.kl


def plot(sizes: list[tuple[Point, ...]]) -> str:
    """KL on a logarithmic axis against bits a weight."""
    curves = [
        Curve(
            name=name,
            colour=colour,
            points=[(points[which].bits_per_weight, kl(points[which])) for points in sizes],
        )
        for which, (name, colour) in enumerate(NAMES_AND_COLOURS)
    ]
    return draw(curves, x_title="bits a weight", y_title="KL from the unquantized model, nats")


if __name__ == "__main__":
    main()
