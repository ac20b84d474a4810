"""Which files of a folder make up one model, and in which layout."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlx_mistral.errors import CheckpointError, ModelNotFoundError
from mlx_mistral.files.untrusted import read_json, shown

Kind = Literal["official", "hf"]
HF_CONFIG, OFFICIAL_CONFIG = "config.json", "params.json"
_KINDS: tuple[tuple[Kind, str, str, str], ...] = (
    ("hf", HF_CONFIG, "model", "safetensors"),
    ("official", OFFICIAL_CONFIG, "consolidated", "safetensors|pth|pt"),
)
"""For each layout, the preferred one first: its configuration, its weights' name and endings."""
_INDEX = ".safetensors.index.json"
_OF = re.compile(r"-(\d{1,6})-of-(\d{1,6})\.")
_NUMBERED = re.compile(r"consolidated\.(\d{1,6})\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSet:
    """The files of one layout, by name."""

    kind: Kind
    """MLX folders are laid out like Hugging Face ones."""
    config: str
    weights: tuple[str, ...]
    index: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of these files."""
        return (self.config, *self.weights, *([self.index] if self.index else []))

    @property
    def patterns(self) -> tuple[str, ...]:
        """What these files match, and the same layout's missing ones."""
        if self.kind == "hf":
            return (self.config, "model*.safetensors", "model.safetensors.index.json")
        suffix = Path(self.weights[0]).suffix
        return (self.config, f"consolidated*{suffix}", f"consolidated{_INDEX}")

    def without_pickles(self) -> FileSet:
        """The .safetensors files alone, where there are some."""
        safe = tuple(name for name in self.weights if name.endswith(".safetensors"))
        return replace(self, weights=safe or self.weights)


def find_files(folder: Path) -> FileSet:
    """The layout to read: Hugging Face or MLX where complete, else Mistral's own.

    Raises: ModelNotFoundError: no folder, or no model in it. CheckpointError: files missing.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{folder} is no folder; give a model's folder, a repo id org/name, or an alias"
        )
    names = sorted(entry.name for entry in folder.iterdir())
    problem: CheckpointError | None = None
    for files in layouts(names):
        try:
            return _complete(folder, files, names)
        except CheckpointError as error:
            problem = problem or error
    raise problem or ModelNotFoundError(f"{folder} holds no model: {_what_is_there(names)}")


def layouts(names: Collection[str]) -> list[FileSet]:
    """The layouts that a listing offers, the preferred one first. Looks at names alone."""
    found = []
    for kind, config, stem, endings in _KINDS:
        index = f"{stem}{_INDEX}"
        shards = _select(names, rf"{stem}.*\.({endings})")
        if shards or index in names:
            found.append(
                FileSet(
                    kind=kind,
                    config=config,
                    weights=shards,
                    index=index if index in names else None,
                )
            )
    return sorted(found, key=lambda files: files.config not in names)


def read_index(folder: Path, name: str) -> dict[str, str]:
    """Tensor name to file name. Raises: CheckpointError: malformed, or points elsewhere."""
    return weight_map(read_json(folder / name), str(folder / name))


def weight_map(data: Mapping[str, Any], where: str) -> dict[str, str]:
    """The table of an index that has been read. Raises: CheckpointError: as `read_index`."""
    table = data.get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{where} has no weight_map; download it again")
    for tensor, file in table.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", file):
            raise CheckpointError(
                f"{where} puts {shown(tensor)} into {shown(file)}; "
                "only safetensors files beside it are read"
            )
    return table


def _complete(folder: Path, files: FileSet, names: list[str]) -> FileSet:
    if files.config not in names:
        raise CheckpointError(
            f"{folder} has weights but no {files.config}; copy the one that belongs to them"
        )
    if files.index is not None:
        needed = tuple(sorted(set(read_index(folder, files.index).values())))
        missing = [name for name in needed if name not in names]
        if missing:
            raise CheckpointError(
                f"{folder}: {files.index} names {missing[0]}, which is not there"
                f"{f' ({len(missing)} such files)' if len(missing) > 1 else ''}; "
                "download the model again"
            )
        return replace(files, weights=needed)
    _check_kinds(folder, files.weights)
    _check_numbers(folder, files.weights)
    return files


def _check_kinds(folder: Path, weights: tuple[str, ...]) -> None:
    pickled = [name for name in weights if not name.endswith(".safetensors")]
    if pickled and len(pickled) < len(weights):
        raise CheckpointError(
            f"{folder} has consolidated weights both as .safetensors and as "
            f"{Path(pickled[0]).suffix}; remove one kind"
        )


def _check_numbers(folder: Path, weights: tuple[str, ...]) -> None:
    """Shard numbers are complete, and no unnumbered file stands beside them."""
    numbers = [int(match[1]) for name in weights if (match := _NUMBERED.match(name))]
    parts = [(int(m[1]), int(m[2])) for name in weights if (m := _OF.search(name))]
    if len(weights) > 1 and len(weights) not in (len(numbers), len(parts)):
        raise CheckpointError(
            f"{folder} has both {weights[0]} and {weights[-1]}, with no index to choose by; "
            "keep one set of weights"
        )
    missing = _first_missing(numbers, range(len(numbers)))
    if missing is not None:
        raise CheckpointError(f"{folder}: consolidated.{missing:02d} is missing; download it again")
    if parts:
        missing = _first_missing([part for part, _ in parts], range(1, parts[0][1] + 1))
        if missing is not None:
            raise CheckpointError(
                f"{folder}: part {missing} of {parts[0][1]} of the weights is missing; "
                "download the model again"
            )


def _first_missing(present: Iterable[int], expected: range) -> int | None:
    have = set(present)
    return next((number for number in expected if number not in have), None)


def _select(names: Iterable[str], pattern: str) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if re.fullmatch(pattern, name)))


def _what_is_there(names: list[str]) -> str:
    for pattern, hint in (
        (r".*\.gguf", "GGUF files are not read"),
        (r"pytorch_model.*\.bin", "pytorch_model*.bin files are not read"),
        (r"(adapters|adapter_model)\.safetensors", "it is an adapter, not a model"),
    ):
        if _select(names, pattern):
            return f"{hint}; get model*.safetensors or consolidated.safetensors"
    return "no model*.safetensors and no consolidated.*; check the path"
