"""MODEL, as people type it: a folder, a repo id, an alias, or the bundled demo."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from mlx_mistral.errors import ModelNotFoundError

from .catalog import ALIASES

DEMO = "demo"
_REPO = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(\w[\w./-]*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Repo:
    """A model repository on the Hub at a revision: a branch, a tag or a commit."""

    id: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.id if self.revision == "main" else f"{self.id}@{self.revision}"


def locate(model: str | Path, *, revision: str | None = None) -> Path | Repo:
    """A local folder, or the repository that a name means. Touches nothing but local folders.

    A folder goes before an alias of the same name; only `demo` is always the bundled model.
    Raises: ModelNotFoundError: neither a folder, nor a repo id, nor an alias.
    """
    if model == DEMO:
        from mlx_mistral import demo

        return Path(demo.model_path())
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        return folder
    name, at, tail = str(model).partition("@")
    match = _REPO.fullmatch(ALIASES.get(name, name) + at + tail)
    if match is None or ".." in tail or isinstance(model, Path):
        raise ModelNotFoundError(_unknown(str(model), folder))
    return Repo(match[1], revision or match[2] or "main")


def _unknown(model: str, folder: Path) -> str:
    if model and folder.exists():
        return f"{model} is a file; give the folder that it lies in"
    close = difflib.get_close_matches(model, [DEMO, *ALIASES], n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"aliases: {', '.join(ALIASES)}"
    return f"{model!r} is no folder here, no repo id org/name and no alias; {hint}"
