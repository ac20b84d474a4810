"""Which tensor goes into which file, and where in it, before any of them exists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .stored import StoredTensor

SHARD_BYTES = 2 * 10**9
"""Small enough that an interrupted conversion loses little, large enough to be few files."""
METADATA = {"format": "mlx"}
_ALIGNMENT = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One safetensors file: its header, and where each tensor begins behind it."""

    name: str
    header: bytes
    """The first bytes of the file, the eight of its length included."""
    tensors: Mapping[str, StoredTensor]
    begins: Mapping[str, int]
    parameters: tuple[str, ...]
    """The model's parameters that these tensors are made from, in the order to write them."""

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors.values())


def arrange(
    tensors: Mapping[str, Sequence[StoredTensor]], *, shard_bytes: int = SHARD_BYTES
) -> list[Shard]:
    """Fills files in the order given; the tensors of one parameter stay together.

    Source: the format's description, https://github.com/huggingface/safetensors#format; names as
    `transformers` and mlx-lm number them.
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for parameter, made in tensors.items():
        size = sum(tensor.nbytes for tensor in made)
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(parameter)
        filled += size
    return [
        _shard(_name(number, len(groups)), group, tensors)
        for number, group in enumerate(groups, start=1)
    ]


def index_json(shards: Sequence[Shard]) -> dict[str, Any]:
    """model.safetensors.index.json: which file holds which tensor."""
    table = {name: shard.name for shard in shards for name in shard.tensors}
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors.values())
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _shard(
    name: str, parameters: Sequence[str], tensors: Mapping[str, Sequence[StoredTensor]]
) -> Shard:
    made = {tensor.name: tensor for parameter in parameters for tensor in tensors[parameter]}
    entries: dict[str, Any] = {"__metadata__": METADATA}
    offsets, position = {}, 0
    for tensor in made.values():
        offsets[tensor.name] = position
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    header = len(raw).to_bytes(8, "little") + raw
    begins = {name: len(header) + offset for name, offset in offsets.items()}
    return Shard(
        name=name, header=header, tensors=made, begins=begins, parameters=tuple(parameters)
    )
