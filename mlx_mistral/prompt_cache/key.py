"""What keys and values depend on beside the tokens, as one short name."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from mlx_mistral.model import Model

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

_PIECES = 1000
"""Of a vocabulary, how many pieces are looked at: enough to tell two vocabularies apart."""


def cache_key(
    model: Model, tokenizer: Tokenizer, *, context: int | None, kv_bits: int | None
) -> str:
    """SHA-256 in hexadecimal over the model, the type of its activations, the tokenizer, the
    bits of the cache and its context: one of them differs, and so does the key.
    """
    parts = {
        "model": model.fingerprint(),
        "dtype": str(model.model.norm.weight.dtype),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "kv_bits": kv_bits,
        "context": context,
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256 in hexadecimal over what a tokenizer says of itself and a sample of its pieces."""
    step = max(1, tokenizer.vocab_size // _PIECES)
    parts = [
        tokenizer.version,
        tokenizer.vocab_size,
        tokenizer.bos_id,
        sorted(tokenizer.eos_ids),
        tokenizer.pieces(range(0, tokenizer.vocab_size, step)),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
