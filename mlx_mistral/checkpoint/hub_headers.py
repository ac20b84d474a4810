"""The headers of a repository on the Hub: a few kilobytes instead of its weights."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.safetensors import LENGTH_BYTES, header_length, parse_header
from mlx_mistral.files.tensor_info import TensorInfo
from mlx_mistral.files.untrusted import MAX_JSON_BYTES, parse_json

from .headers import Headers, check_index, interpret, merge, read_folder
from .hub import choose_layout, told_plainly
from .hub_cache import cached_folder
from .layouts import weight_map
from .model_name import Repo, locate

FIRST_BYTES = 1 << 16
"""Holds most headers whole, so that one request a file is enough."""


def read_model(model: str | Path, *, revision: str | None = None) -> Headers:
    """The headers of any MODEL: from its folder, the cache, or else over the network.

    Raises: as `resolve` and `read_folder`.
    """
    where = locate(model, revision=revision)
    folder = where if isinstance(where, Path) else cached_folder(where)
    return read_folder(folder) if folder is not None else read_repo(_repo(where))


def read_repo(repo: Repo) -> Headers:
    """The headers of a repository, by requests for ranges of bytes. Nothing is kept.

    Raises: as `resolve`; CheckpointError also where the weights are .pth or .pt files.
    """
    with told_plainly(repo):
        remote = RemoteFiles.of(repo)
        found = choose_layout(repo, remote.sizes)
        raw_config = remote.json(found.config)
        table = weight_map(remote.json(found.index), found.index) if found.index else {}
        files = sorted(set(table.values())) or found.weights
        tensors = merge({Path(name): remote.tensors(name) for name in files})
    if found.index:
        check_index(table, tensors, Path(found.index))
    paths = tuple(Path(name) for name in files)
    return interpret(found, raw_config, tensors, paths, str(repo))


class RemoteFiles:
    """Parts of a repository's files, at one commit."""

    def __init__(self, repo: Repo, sizes: dict[str, int]) -> None:
        self._repo, self.sizes = repo, sizes

    @classmethod
    def of(cls, repo: Repo) -> RemoteFiles:
        """The files that a repository lists, and their sizes in bytes."""
        info = huggingface_hub.HfApi().model_info(
            repo.id, revision=repo.revision, files_metadata=True
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        return cls(Repo(repo.id, info.sha or repo.revision), sizes)

    def json(self, name: str) -> dict[str, object]:
        """A small file, whole."""
        if self.sizes.get(name, 0) > MAX_JSON_BYTES:
            raise CheckpointError(f"{self._repo}: {name} is too large to be a JSON file of a model")
        return parse_json(self.read(name, 0, self.sizes.get(name, 0)), f"{self._repo}: {name}")

    def tensors(self, name: str) -> dict[str, TensorInfo]:
        """What a safetensors file's header describes."""
        if not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{self._repo} holds {name}, whose header lies at its end; "
                "`models pull` it to look inside"
            )
        if name not in self.sizes:
            raise CheckpointError(f"{self._repo}: {name} is missing; choose another repository")
        size, path = self.sizes[name], Path(name)
        start = self.read(name, 0, min(FIRST_BYTES, size))
        end = LENGTH_BYTES + header_length(start, size, path)
        if end > len(start):
            start += self.read(name, len(start), end)
        return parse_header(start[LENGTH_BYTES:end], size, path)

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Bytes begin to end. A server that would send the whole file is hung up on."""
        if begin >= end:
            return b""
        url = huggingface_hub.hf_hub_url(self._repo.id, name, revision=self._repo.revision)
        headers = build_hf_headers() | {
            "Range": f"bytes={begin}-{end - 1}",
            "Accept-Encoding": "identity",
        }
        with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            received = bytearray()
            skip = 0 if response.status_code == 206 else begin
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) >= skip + end - begin:
                    break
        part = bytes(received[skip : skip + end - begin])
        if len(part) != end - begin:
            raise CheckpointError(f"{self._repo}: {name} ended early; try again")
        return part


def _repo(where: Path | Repo) -> Repo:
    assert isinstance(where, Repo)
    return where
