"""Writes mlx_mistral/demo/greedy_reply.json: a reply of the demo model, computed by NumPy.

The reply comes from `tests/reference.py`, which is float64 and shares no code with the package.
Run from the root of the checkout, after the demo model has changed:

    python tests/recordings/greedy_reply.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import mlx.core as mx
import numpy as np
import reference
from tiny import weights_of

from mlx_mistral import load_model, load_tokenizer
from mlx_mistral.demo import greedy_reply_path, model_path

CHAT = [
    {"role": "user", "content": "What is RoPE?"},
    {"role": "assistant", "content": "RoPE rotates queries and keys by their position."},
    {"role": "user", "content": "What is 31 plus 46?"},
]
"""Prompt and reply are longer than the window, and no token has a close second."""


def record() -> dict[str, object]:
    """Return the ids of prompt and reply, and the logits from which the last id comes."""
    tokenizer = load_tokenizer(model_path())
    model = load_model(model_path(), dtype=mx.float32)
    weights = weights_of(model)
    prompt = list(tokenizer.encode_chat(CHAT))
    reply: list[int] = []
    margins = []
    while not reply or reply[-1] not in tokenizer.eos_ids:
        logits = reference.logits(model.config, weights, prompt + reply)[-1]
        second, first = np.sort(logits)[-2:]
        margins.append(first - second)
        reply.append(int(logits.argmax()))
    return {
        "source": "tests/recordings/greedy_reply.py: NumPy, float64",
        "prompt_ids": prompt,
        "reply_ids": reply,
        "text": tokenizer.decode(reply),
        "smallest_margin": round(float(min(margins)), 3),
        "last_logits": [round(float(value), 4) for value in logits],
    }


if __name__ == "__main__":
    greedy_reply_path().write_text(json.dumps(record()) + "\n", encoding="utf-8")
