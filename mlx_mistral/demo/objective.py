"""What training minimizes: the next token, where it matters; balance; and handing facts on."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from mlx_mistral.demo import model_path
from mlx_mistral.demo.architecture import WINDOW, model_config
from mlx_mistral.demo.batches import REPLY_WEIGHT, VALUE_WEIGHT, used_ids
from mlx_mistral.demo.fast_forward import band, cross_entropy, hidden_states
from mlx_mistral.demo.optimizer import Parameters
from mlx_mistral.demo.relay import PREFIX, reader_parameters, relay_loss
from mlx_mistral.model import Model

TOKENIZER = model_path() / "tokenizer.model.v3"
BALANCE_WEIGHT = 0.01
RELAY_WEIGHT, LATE_RELAY_WEIGHT = 1.0, 0.3


def initial_parameters(seed: int) -> Parameters:
    """Small random matrices; those that write to the residual stream, and the head, are zero."""
    mx.random.seed(seed)
    parameters: Parameters = dict(tree_flatten(Model(model_config()).parameters()))
    for name, p in parameters.items():
        if "norm" in name:
            continue
        if any(part in name for part in ("o_proj", "down_proj", "lm_head")):
            parameters[name] = mx.zeros_like(p)
        else:
            std = 0.5 if "embed" in name else 0.5 * p.shape[-1] ** -0.5
            parameters[name] = mx.random.normal(p.shape) * std
    return parameters | reader_parameters(model_config().dim)


class Objective:
    """The loss of a batch as a function of the parameters.

    The softmax runs over the ids that the corpus contains. All other ids share one logit,
    that of <unk>, counted as often as there are such ids.
    """

    def __init__(self, seed: int, length: int) -> None:
        self._mask = band(length, WINDOW)
        vocab = model_config().vocab_size
        used = used_ids(TOKENIZER, seed=seed)
        self.rows = mx.array([*used, 0])
        self.unused = [i for i in range(vocab) if i not in set(used)]
        columns = {token: i for i, token in enumerate(used)}
        self._column_of_id = mx.array([columns.get(i, len(used)) for i in range(vocab)])
        self._shift = mx.log(mx.array([1.0] * len(used) + [float(len(self.unused))]))
        mx.eval(self._mask, self.rows, self._column_of_id, self._shift)

    def __call__(
        self, parameters: Parameters, batch: tuple[mx.array, ...]
    ) -> tuple[mx.array, mx.array]:
        """The loss, and what a log wants: loss and count of plain and of recalled tokens."""
        inputs, positions, targets, weights, places, facts, distances, relay_weight = batch
        model = Model(model_config())  # its own, since threads trace at once
        model.update(tree_unflatten(list(_of_the_model(parameters).items())))
        x, balance, states = hidden_states(model, inputs, self._mask)
        relay = relay_loss(
            parameters,
            [state.reshape(-1, state.shape[-1]) for state in states],
            places.flatten(),
            facts.reshape(-1, facts.shape[-1]),
            distances.reshape(-1, facts.shape[-1]),
            WINDOW,
        )
        x = x.reshape(-1, x.shape[-1])[positions.flatten()]
        head = parameters["lm_head.weight"][self.rows]
        logits = x @ head.T + self._shift
        ce: Any = cross_entropy(logits, self._column_of_id[targets.flatten()])
        w = weights.flatten()
        loss = (ce * w).sum() / w.sum()
        plain, recalled = mx.equal(w, REPLY_WEIGHT), mx.equal(w, VALUE_WEIGHT)
        log = [
            (ce * plain).sum(),
            plain.sum(),
            (ce * recalled).sum(),
            recalled.sum(),
            balance,
            relay,
        ]
        loss = loss + BALANCE_WEIGHT * balance + relay_weight * relay
        return loss, mx.stack([mx.stop_gradient(v) for v in log])

    def finished(self, parameters: Parameters) -> Parameters:
        """The parameters to ship: unused ids get the head row they were trained with."""
        done = _of_the_model(parameters)
        unused = mx.array([i for i in self.unused if i != 0])
        head, table = done["lm_head.weight"], done["model.embed_tokens.weight"]
        done["lm_head.weight"] = _set_rows(head, unused, head[0])
        mean = table[self.rows[:-1]].mean(axis=0)
        done["model.embed_tokens.weight"] = _set_rows(table, mx.array(self.unused), mean)
        return done


def _of_the_model(parameters: Parameters) -> Parameters:
    """Without what only training uses."""
    return {name: p for name, p in parameters.items() if not name.startswith(PREFIX)}


def _set_rows(table: mx.array, rows: mx.array, value: mx.array) -> mx.array:
    out = mx.array(table)
    out[rows] = value
    return out
