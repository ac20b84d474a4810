"""Muon for the matrices inside the layers, Adam for everything else.

Source: Muon, K. Jordan and others, 2024 (kellerjordan.github.io/posts/muon); arXiv:1412.6980.
"""

from __future__ import annotations

import mlx.core as mx

Parameters = dict[str, mx.array]
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
_BETAS = (0.9, 0.97)


def uses_muon(name: str) -> bool:
    """Whether a parameter is a matrix (or stack of them) between hidden states."""
    return name.endswith("_proj.weight")


def orthogonalize(g: mx.array) -> mx.array:
    """The nearest half-orthogonal matrices, roughly: Newton-Schulz on the last two axes."""
    a, b, c = _COEFFICIENTS
    is_tall = g.shape[-2] > g.shape[-1]
    x = g.swapaxes(-1, -2) if is_tall else g
    x = x / (mx.sqrt((x * x).sum(axis=(-2, -1), keepdims=True)) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.swapaxes(-1, -2)
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.swapaxes(-1, -2) if is_tall else x


def initial_state(parameters: Parameters) -> Parameters:
    """Moments of zero. Keys: `<name>.m`, and `<name>.v` for Adam."""
    state: Parameters = {}
    for name, p in parameters.items():
        state[name + ".m"] = mx.zeros_like(p)
        if not uses_muon(name):
            state[name + ".v"] = mx.zeros_like(p)
    return state


def update(
    name: str,
    p: mx.array,
    g: mx.array,
    state: Parameters,
    step: mx.array,
    rates: tuple[mx.array, mx.array],
    decay: float,
) -> tuple[mx.array, Parameters]:
    """One parameter after one step, and its new moments.

    rates: Muon's and Adam's learning rate. decay: of Muon's matrices, relative to the rate.
    """
    muon_rate, adam_rate = rates
    m = state[name + ".m"]
    if uses_muon(name):
        m = _MOMENTUM * m + (1 - _MOMENTUM) * g
        direction = orthogonalize((1 - _MOMENTUM) * g + _MOMENTUM * m)
        stretch = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
        p = p * (1 - muon_rate * decay) - muon_rate * stretch * direction
        return p, {name + ".m": m}
    b1, b2 = _BETAS
    m = b1 * m + (1 - b1) * g
    v = b2 * state[name + ".v"] + (1 - b2) * g * g
    unbiased = (m / (1 - b1**step)) / (mx.sqrt(v / (1 - b2**step)) + 1e-8)
    return p - adam_rate * unbiased, {name + ".m": m, name + ".v": v}
