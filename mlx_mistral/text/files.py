"""Which file of a model folder is its tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_mistral.errors import TokenizerError
from mlx_mistral.text.foreign import as_tokenizer_error

Kind = Literal["tekken", "sentencepiece", "hugging_face"]

LARGEST_FILE_BYTES = 256 * 1024 * 1024
"""Far above any real tokenizer (19 MB at most), far below what would hurt."""

_SENTENCEPIECE = re.compile(r".*\.model(?:\.v(?P<version>\d{1,4})(?:m\d{1,4})?)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFile:
    path: Path
    kind: Kind
    version: str | None  # "v3" from the name; None where the file itself has to say


def find_tokenizer(folder: str | Path) -> TokenizerFile:
    """The tokenizer file of `folder`; a path to such a file stands for itself.

    tekken.json wins, then the SentencePiece file of the highest version (`tokenizer.model.v3`
    before `tokenizer.model`), then tokenizer.json: the order in which Mistral keeps them current.
    Raises: TokenizerError: nothing there, or a file too large to be a tokenizer.
    Source: mistral-common, tokens/tokenizers/utils.py, get_one_valid_tokenizer_file.
    """
    place = Path(folder)
    if place.is_file():
        found = _classified(place)
    elif place.is_dir():
        with as_tokenizer_error(f"{place} cannot be read", "check its permissions"):
            found = _best_of(place)
    else:
        raise TokenizerError(f"no such folder: {place}; give the folder that holds the model")
    if found is None:
        raise TokenizerError(
            f"no tokenizer (tekken.json, tokenizer.model or tokenizer.json) in {place}; "
            "copy it there from the model's original folder"
        )
    size = found.path.stat().st_size
    if size > LARGEST_FILE_BYTES:
        raise TokenizerError(
            f"{found.path.name} of {size} bytes is too large for a tokenizer, in {place}; "
            "download it again"
        )
    return found


def _best_of(folder: Path) -> TokenizerFile | None:
    candidates = [
        found
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        if path.is_file() and (found := _classified(path)) is not None
    ]
    return max(candidates, key=_rank, default=None)


def _rank(file: TokenizerFile) -> tuple[int, int, str]:
    kinds: tuple[Kind, ...] = ("hugging_face", "sentencepiece", "tekken")
    version = int(file.version[1:]) if file.version else 0
    return kinds.index(file.kind), version, file.path.name


def _classified(path: Path) -> TokenizerFile | None:
    name = path.name
    if name.startswith("tekken") and name.endswith(".json"):
        return TokenizerFile(path=path, kind="tekken", version=None)
    if name == "tokenizer.json":
        return TokenizerFile(path=path, kind="hugging_face", version=None)
    match = _SENTENCEPIECE.match(name)
    if match is None:
        return None
    number = match["version"]
    version = f"v{int(number)}" if number else None
    return TokenizerFile(path=path, kind="sentencepiece", version=version)
