"""One pass over a model that measures what quantizing each of its matrices alone would do.

At each matrix a branch of the hidden states splits off in which this one matrix is stored in a
probe format. All branches walk on through the later layers together, and the divergence of
their predictions is the damage at the probe. For every other format the damage follows from
the error of the matrix's own outputs, which is taken where the branch begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlx_mistral.config import QuantParams
from mlx_mistral.config.quantization import AFFINE_GROUPS
from mlx_mistral.evaluation.layerwise import LOGITS_BYTES, Layer, LayerWalk, split_rows

from .curve import damages_from
from .damages import Damages
from .errors import Moved, lookup_error, number, output_error, rounded, stored_as
from .formats import Format, fitting
from .inputs import mean_squares, module_at, recorded

CHUNK_TOKENS = 2048
"""Tokens of branches that go through a layer at once."""
ROUTER = "block_sparse_moe.gate"
EMBEDDINGS, HEAD = "model.embed_tokens", "lm_head"


class Branch(NamedTuple):
    """Which matrix differs from the model's, and how it is stored."""

    path: str
    probe: QuantParams


class BranchingPass:
    """A walk with one stream of unbranched texts, and all branches that have begun."""

    def __init__(
        self,
        walk: LayerWalk,
        tokens: mx.array,
        n_branched: int,
        *,
        candidates: Sequence[Format],
        probes: Sequence[QuantParams],
        stored: mx.Dtype,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        """Shapes: tokens (B, T) ints, of which branches walk the first `n_branched` rows."""
        self._walk, self._tokens, self._n_branched = walk, tokens, n_branched
        self._candidates, self._probes, self._stored = candidates, tuple(probes), stored
        self._progress = progress
        self._errors: dict[str, list[dict[QuantParams, float]]] = {}
        self._branches: dict[Branch, mx.array] = {}
        self._importance: dict[str, mx.array] = {}

    def run(self) -> Damages:
        """Walks once from the embeddings to the predictions."""
        n_layers = self._walk.config.n_layers
        self._tell("embeddings", 0)
        states = self._embed()
        for layer in self._walk.layers(self._tokens.shape[1]):
            self._tell(f"layer {layer.index + 1}", layer.index + 1)
            self._advance(layer)
            states = self._branch_off(layer, states)
        self._tell("head", n_layers + 1)
        measured = self._end(states)
        self._tell("done", n_layers + 2)
        return Damages(
            by_path={path: self._damages(path, measured) for path in self._errors},
            probes=self._probes,
            tokens=self._tokens.size,
            branch_tokens=self._n_branched * self._tokens.shape[1],
            importance=self._importance,
        )

    def _embed(self) -> mx.array:
        """The unbranched texts behind the table; branches in which it is rounded begin."""
        walk, tokens = self._walk, self._tokens
        with walk.embedding() as table:
            weight = table.weight
            self._errors[EMBEDDINGS] = [
                {
                    one: lookup_error(weight, tokens, one, self._stored)
                    for one in self._formats(weight)
                }
            ]
            for probe in self._fitting_probes(weight):
                with stored_as(table, probe, self._stored):
                    branch = walk.look_up(tokens[: self._n_branched])
                self._branches[Branch(EMBEDDINGS, probe)] = branch
            return walk.look_up(tokens)

    def _advance(self, layer: Layer) -> None:
        """Takes the branches that have begun through a layer, as many together as fit a chunk."""
        each = max(1, CHUNK_TOKENS // (self._n_branched * self._tokens.shape[1]))
        keys = list(self._branches)
        for start in range(0, len(keys), each):
            group = keys[start : start + each]
            joined = mx.concatenate([self._branches.pop(key) for key in group])
            out = _through(layer, joined)
            self._branches |= zip(group, mx.split(out, len(group)), strict=True)

    def _branch_off(self, layer: Layer, states: mx.array) -> mx.array:
        """Begins the branches of a layer's matrices, and measures the matrices' errors.

        Shapes: the unbranched texts before the layer -> after it, (B, T, dim).
        """
        paths = matrices_of(layer.block)
        for path in paths:
            module = module_at(layer.block, path)
            for probe in self._fitting_probes(module.weight):
                with stored_as(module, probe, self._stored):
                    branch = _through(layer, states[: self._n_branched])
                self._branches[Branch(f"{layer.path}.{path}", probe)] = branch
        with recorded(layer.block, paths) as inputs:
            states = _through(layer, states)
        for path in paths:
            weight, rows = module_at(layer.block, path).weight, inputs[path].by_expert()
            self._errors[f"{layer.path}.{path}"] = [self._output_errors(weight, rows)]
            self._keep_importance(f"{layer.path}.{path}", weight, rows)
            mx.clear_cache()
        return states

    def _end(self, states: mx.array) -> dict[Branch, float]:
        """The mean divergence of each branch's predictions from the unbranched ones, in nats."""
        with self._walk.ending() as ending:
            norm, weight = ending.norm, ending.head.weight
            path = EMBEDDINGS if ending.tied else HEAD
            rows = [norm(states).flatten(0, 1)]
            self._errors.setdefault(path, []).append(self._output_errors(weight, rows))
            self._keep_importance(path, weight, rows)
            exact = states[: self._n_branched]
            ends = {key: (x, weight) for key, x in self._branches.items()}
            for probe in self._fitting_probes(weight):
                key = Branch(path, probe)
                ends[key] = self._branches.get(key, exact), rounded(weight, probe, self._stored)
            return divergences(norm, (exact, weight), ends)

    def _damages(self, path: str, measured: Mapping[Branch, float]) -> dict[Format, float]:
        probes = {key.probe: kl for key, kl in measured.items() if key.path == path}
        return damages_from(self._errors[path], probes)

    def _output_errors(
        self, weight: mx.array, rows: Sequence[mx.array]
    ) -> dict[QuantParams, float]:
        moved = [Moved(inputs) for inputs in rows]
        return {
            one: output_error(weight, moved, one, self._stored) for one in self._formats(weight)
        }

    def _keep_importance(self, path: str, weight: mx.array, rows: Sequence[mx.array]) -> None:
        n_experts = weight.shape[0] if weight.ndim == 3 else None
        self._importance[path] = mean_squares(rows, n_experts)
        mx.eval(self._importance[path])

    def _formats(self, weight: mx.array) -> list[QuantParams]:
        """All formats whose error is wanted: those to choose from, and the probes."""
        wanted = dict.fromkeys([*self._candidates, *self._fitting_probes(weight)])
        return [one for one in fitting(wanted, weight.shape[-1]) if one is not None]

    def _fitting_probes(self, weight: mx.array) -> list[QuantParams]:
        """The probes, in smaller groups where theirs do not divide a row."""
        columns, probes = weight.shape[-1], []
        for probe in self._probes:
            sizes = [size for size in AFFINE_GROUPS if size <= probe.group_size]
            size = next((size for size in reversed(sizes) if columns % size == 0), None)
            if size is not None:
                probes.append(replace(probe, group_size=size))
        return probes

    def _tell(self, part: str, done: int) -> None:
        if self._progress:
            self._progress(part, done, self._walk.config.n_layers + 2)


def matrices_of(block: nn.Module) -> list[str]:
    """The paths in a block of all that may be quantized."""
    return [
        path
        for path, module in block.named_modules()
        if hasattr(module, "to_quantized") and path != ROUTER
    ]


Ends = tuple[mx.array, mx.array]
"""What the last layer makes (B, T, dim), and the head (vocab, dim) that reads it."""


def divergences(norm: nn.Module, exact: Ends, others: Mapping[Branch, Ends]) -> dict[Branch, float]:
    """The mean over all tokens of KL(exact || other) for each of the others, in nats."""
    (p, head), totals = exact, dict.fromkeys(others, 0.0)
    n_tokens = p.shape[0] * p.shape[1]
    size = max(1, LOGITS_BYTES // (8 * head.shape[0]))
    for start in range(0, n_tokens, size):
        part = slice(start, start + size)
        log_p = log_probabilities(norm(p.flatten(0, 1)[part]) @ head.T)
        for key, (q, q_head) in others.items():
            log_q = log_probabilities(norm(q.flatten(0, 1)[part]) @ q_head.T)
            totals[key] += number((mx.exp(log_p) * (log_p - log_q)).sum())
    return {key: total / n_tokens for key, total in totals.items()}


def log_probabilities(logits: mx.array) -> mx.array:
    """Shapes: (n, vocab) -> (n, vocab) float32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _through(layer: Layer, x: mx.array) -> mx.array:
    """A layer over texts, a chunk at a time. Shapes: (B, T, dim) -> (B, T, dim)."""
    out = mx.concatenate([layer(part) for part in split_rows(x, CHUNK_TOKENS)])
    mx.eval(out)
    return out
