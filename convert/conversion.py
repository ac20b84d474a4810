"""The converter: a checkpoint of any layout becomes an MLX folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.device import device_kind
from mlx_mistral.checkpoint import resolve
from mlx_mistral.checkpoint.headers import read_folder
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.errors import ConversionError

from . import companions
from .checks import check_dest, check_room, check_source, told_plainly
from .config_json import config_json
from .decide import Request, decide
from .kept import file_states, kept_beside
from .plan import Plan, tensors_of
from .result import Conversion, Progress, bytes_by_kind, peak_resident_bytes
from .shards import SHARD_BYTES, Shard, arrange, index_json
from .stored import StoredTensor
from .workspace import MANIFEST, Workspace, sha256
from .writing import write_shards

FORMAT = 1
"""Of what is written; a change here keeps shards of an older converter from being taken over."""


def convert_checkpoint(
    source: str | Path,
    dest: str | Path,
    *,
    plan: Plan | None = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[Progress], None] | None = None,
    measuring: Callable[[str, int, int], None] | None = None,
    **choices: Any,
) -> Conversion:
    """Writes `dest`, an MLX folder of `source`, which is a folder of any layout, repo or alias.

    choices: fields of `Request`: bits=4, group_size=64, mode="affine", recipe="uniform", dtype,
    fit_bytes, context, calibration, bos_id, damages. A `plan` made before takes their place.
    Memory holds a few slabs of 8 MB. `dest` is absent until it is whole and checked; a run
    that was stopped goes on where it was.

    Raises: ConversionError: it cannot be done, and why. CheckpointError, ConfigError,
        ModelNotFoundError: the source cannot be read. MemoryBudgetError: no recipe fits.
    """
    started = time.perf_counter()
    folder = resolve(str(source))
    place = check_dest(folder, Path(dest), overwrite=overwrite)
    checkpoint = Checkpoint(folder)
    check_source(checkpoint, folder)
    beside_dest = kept_beside(place)
    plan = plan or decide(checkpoint, Request(**choices), keep=beside_dest, progress=measuring)
    tensors = tensors_of(checkpoint.parameters, plan)
    shards = arrange(tensors, shard_bytes=shard_bytes)
    config = config_json(
        checkpoint.config,
        quantization=plan.quantization(),
        dtype=plan.dtype,
        source=checkpoint.headers.raw_config,
    )
    beside = companions.companions(folder)
    with told_plainly(place):
        fingerprint = _fingerprint(checkpoint, plan, shards)
        workspace = Workspace(place, fingerprint)
        try:
            # Again: a replacement that was stopped half-way has been undone just now.
            check_dest(folder, place, overwrite=overwrite)
            check_room(workspace, shards, beside)
            companions.check_names(beside, workspace.folder)
            write_shards(checkpoint, plan, shards, workspace, progress)
            if _fingerprint(checkpoint, plan, shards) != fingerprint:
                raise ConversionError(
                    f"{folder} changed while it was read; leave it alone and run the command again"
                )
            for path in beside:
                companions.copy(path, workspace.folder)
            workspace.write_json("config.json", config)
            workspace.write_json("model.safetensors.index.json", index_json(shards))
            workspace.write_json(MANIFEST, _manifest(workspace, plan))
            check_result(workspace.folder, tensors, shards)
            workspace.publish(overwrite=overwrite)
            beside_dest.unlink(missing_ok=True)
        finally:
            workspace.close()
    return Conversion(
        dest=place,
        plan=plan,
        source_bytes=checkpoint.headers.weight_bytes,
        weight_bytes=sum(tensor.nbytes for made in tensors.values() for tensor in made),
        parameters=checkpoint.headers.parameter_count,
        bytes_by_kind=bytes_by_kind(tensors),
        tensors=sum(map(len, tensors.values())),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_resident_bytes(),
        note=workspace.note,
    )


def check_result(
    folder: Path, tensors: Mapping[str, Sequence[StoredTensor]], shards: Sequence[Shard]
) -> None:
    """Reads the headers as a stranger would. Raises: ConversionError: not what was planned."""
    found = read_folder(folder)
    expected = {tensor.name: tensor for made in tensors.values() for tensor in made}
    for name in expected.keys() | found.parameters.keys():
        want, have = expected.get(name), found.parameters.get(name)
        if want is None or have is None or (want.dtype, want.shape) != (have.dtype, have.shape):
            raise ConversionError(
                f"{folder}: {name} is not what was to be written; this is a fault of the "
                "converter, please report it"
            )
    for shard in shards:
        if (folder / shard.name).stat().st_size != shard.nbytes:
            raise ConversionError(f"{folder / shard.name} has changed; run the command again")


def _manifest(workspace: Workspace, plan: Plan) -> dict[str, Any]:
    """Every file with its size and hash, so that a copy can be checked anywhere."""
    files = {}
    for path in sorted(workspace.folder.iterdir()):
        if not path.name.startswith("."):
            digest = workspace.finished.get(path.name) or sha256(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return {"format": FORMAT, "plan": plan.to_json(), "files": files}


def _fingerprint(checkpoint: Checkpoint, plan: Plan, shards: Sequence[Shard]) -> str:
    """Changes with anything that could change a byte of a shard."""
    job = {
        "format": FORMAT,
        "mlx": version("mlx"),
        "device": device_kind(),
        "files": file_states(checkpoint),
        "plan": plan.to_json(),
        "importance": {path: _digest(array) for path, array in sorted(plan.importance.items())},
        "headers": [hashlib.sha256(shard.header).hexdigest() for shard in shards],
    }
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


def _digest(array: mx.array) -> str:
    return hashlib.sha256(np.asarray(array.astype(mx.float32)).tobytes()).hexdigest()
