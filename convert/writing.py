"""Writes the shards that are still missing, and checks each behind the next one's back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import mlx.core as mx

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.checkpoint.slabs import SLAB_BYTES, Slab, slabs_of

from .pipeline import Pipeline, Task
from .plan import Plan
from .result import Progress
from .shard_file import ShardFile
from .shards import Shard
from .workspace import Workspace

REFINED_SLAB_BYTES = 4 << 20
"""Searching for the best scales takes a dozen float32 copies of a slab."""


def write_shards(
    checkpoint: Checkpoint,
    plan: Plan,
    shards: Sequence[Shard],
    workspace: Workspace,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Raises: CheckpointError: the source cannot be read. ConversionError, OSError: the result
    cannot be written; finished shards stay."""
    report = _Counter(checkpoint, progress)
    checking: deque[tuple[ShardFile, Future[str]]] = deque()
    with (
        Pipeline(checkpoint.config, getattr(mx, plan.dtype)) as pipeline,
        ThreadPoolExecutor(1, "check") as checker,
    ):
        try:
            for shard in shards:
                if shard.name in workspace.finished:
                    report.skip(shard)
                    continue
                file = ShardFile(workspace.folder, shard)
                try:
                    pipeline.run(_tasks(checkpoint, plan, file), report.add)
                except BaseException:
                    file.close()
                    raise
                checking.append((file, checker.submit(file.finish)))
                if len(checking) > 1:
                    _record(checking.popleft(), workspace)
        finally:
            # Where a later shard failed, these are whole all the same.
            while checking:
                _record(checking.popleft(), workspace)


def _record(checked: tuple[ShardFile, Future[str]], workspace: Workspace) -> None:
    file, digest = checked
    workspace.record(file.shard.name, digest.result())


def _tasks(checkpoint: Checkpoint, plan: Plan, file: ShardFile) -> Iterator[Task]:
    for name in file.shard.parameters:
        module, _, part = name.rpartition(".")
        params = plan.formats.get(module) if part == "weight" else None
        affine = params is not None and params.mode == "affine"
        parts = ("weight", "scales", "biases") if affine else ("weight", "scales")
        names = tuple(f"{module}.{one}" for one in parts) if params else (name,)
        importance = plan.importance.get(module) if affine else None
        slab_bytes = SLAB_BYTES if importance is None else REFINED_SLAB_BYTES
        parameter = checkpoint.parameters[name]
        for slab in slabs_of(parameter, checkpoint.config, slab_bytes=slab_bytes):
            yield Task(
                slab=slab,
                params=params,
                names=names,
                file=file,
                importance=None if importance is None else _of_expert(importance, slab),
            )


def _of_expert(importance: mx.array, slab: Slab) -> mx.array:
    """Shapes: (columns,) or (E, columns) -> (columns,)."""
    return importance[slab.expert] if importance.ndim == 2 else importance


class _Counter:
    """Counts bytes of the source, and tells."""

    def __init__(self, checkpoint: Checkpoint, progress: Callable[[Progress], None] | None) -> None:
        self._parameters = checkpoint.parameters
        self._tell = progress
        self._done = 0.0
        self._total = sum(parameter.nbytes for parameter in self._parameters.values())

    def add(self, slab: Slab) -> None:
        parameter = slab.parameter
        self._done += parameter.nbytes * slab.n_rows / math.prod(parameter.shape[:-1])
        self._report(parameter.name)

    def skip(self, shard: Shard) -> None:
        self._done += sum(self._parameters[name].nbytes for name in shard.parameters)
        self._report(shard.parameters[-1])

    def _report(self, parameter: str) -> None:
        if self._tell:
            done = round(self._done)
            self._tell(Progress(done_bytes=done, total_bytes=self._total, parameter=parameter))
