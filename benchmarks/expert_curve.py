"""Tokens a second against the share of experts in memory, beside what was foretold.

    python benchmarks/expert_curve.py demo
    python benchmarks/expert_curve.py FOLDER [--tokens 12] [--trials 3] [--warm]

The experts are chosen by the model's own routers, or two of a layer at random. What is read comes
from the disk each time: the system's copy of it is dropped just before (not with --warm). The
forecast is that of `fit`: a token's weights at the speed of a matrix tried here, and what is not in
memory at the disk's, with all experts chosen alike. Beside it the same with the hit rate and the
resident model's speed that were then measured. Trials take turns; each figure is the median.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.select import active_backend
from mlx_mistral.checkpoint import load_model, read_folder
from mlx_mistral.demo import model_path
from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.memory import ModelNeeds
from mlx_mistral.memory.speed import FASTEST_TPS
from mlx_mistral.model import Model
from mlx_mistral.streaming import (
    StreamedModel,
    expected_hit_rate,
    expected_tps,
    load_streaming,
    measured_disk_speed,
    measured_weight_speed,
)

SHARES = (0.125, 0.25, 0.5, 0.75)
PROMPT = (1, 500, 900, 1300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One reply."""

    tps: float
    hit_rate: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", help="a model's folder, or demo")
    parser.add_argument("--tokens", type=int, default=12, help="of a reply (default: 12)")
    parser.add_argument("--trials", type=int, default=3, help="replies of each kind (default: 3)")
    parser.add_argument("--warm", action="store_true", help="leave files in the system's memory")
    args = parser.parse_args()
    folder = model_path() if args.folder == "demo" else Path(args.folder)
    print("| routing | experts in memory | hits | tokens/s | fit foretells | with these hits |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for line in curve(folder, args.tokens, args.trials, args.warm):
        print(line, flush=True)


def curve(folder: Path, n_tokens: int, trials: int, warm: bool) -> Iterator[str]:
    headers = read_folder(folder)
    config, moe = headers.config, headers.config.moe
    assert moe is not None
    needs = ModelNeeds.of(headers, dtype="float32", scratch=active_backend().scratch)
    total = config.n_layers * moe.num_experts
    resident = load_model(folder)
    largest = max(headers.files, key=lambda file: file.stat().st_size)
    for routing in ("its own", "uniform"):
        models = {share: load_streaming(folder, slots=round(share * total)) for share in SHARES}
        if routing == "uniform":
            for model in models.values():
                route_uniformly(model, moe.num_experts)
        runs: dict[float, list[Run]] = defaultdict(list)
        speeds, disks, probes = [], [], []
        for trial in range(trials + 1):
            for share, model in models.items():
                # Beside each reply, as what else runs here comes and goes.
                disks.append(measured_disk_speed(largest))
                probes.append(measured_weight_speed(config, "float32") / needs.read_bytes)
                with nullcontext() if warm else cold_reads():
                    one = reply(model, n_tokens)
                if trial:
                    runs[share].append(one)
            speeds.append(reply(resident, n_tokens).tps)
        disk = median(disks)
        probed = min(FASTEST_TPS, median(probes))
        yield row(routing, "all", "", f"{median(speeds):.3g}", f"{probed:.3g}", "")
        for share, model in models.items():
            tps = median(run.tps for run in runs[share])
            hit_rate = median(run.hit_rate for run in runs[share])
            stream = model.streaming
            foretold = [
                expected_tps(
                    resident_tps=resident_tps,
                    hit_rate=hits,
                    chosen_per_token=config.n_layers * moe.num_experts_per_tok,
                    expert_bytes=stream.expert_bytes,
                    disk_bytes_per_second=disk,
                )
                for hits, resident_tps in (
                    (expected_hit_rate(stream.slots, total), probed),
                    (hit_rate, median(speeds)),
                )
            ]
            cells = [f"{one:.3g}, {one / tps:.2f}x" for one in foretold]
            yield row(routing, f"{share:.1%}", f"{hit_rate:.1%}", f"{tps:.3g}", *cells)
            stream.close()
        yield row(f"disk {disk / 1e9:.2f} GB/s", *[""] * 5)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def reply(model: Model, n_tokens: int) -> Run:
    """Greedy, but for a first token that the prompt's reading is part of."""
    stats = model.streaming.stats if isinstance(model, StreamedModel) else None
    cache, sampling = model.make_cache(), Sampling(temp=0.9, seed=1)
    steps = generate_ids(model, PROMPT, cache=cache, sampling=sampling, max_tokens=n_tokens + 1)
    next(steps)
    if stats:
        stats.reset()
    start = time.perf_counter()
    for _ in steps:
        pass
    tps = n_tokens / (time.perf_counter() - start)
    return Run(tps=tps, hit_rate=stats.hit_rate if stats and stats.chosen else 1.0)


def route_uniformly(model: Model, n_experts: int) -> None:
    """Each token gets two experts of a layer at random."""
    rng = np.random.default_rng(0)

    def route(x: mx.array) -> tuple[mx.array, mx.array]:
        rows = [rng.permutation(n_experts)[:2] for _ in range(x.size // x.shape[-1])]
        chosen = mx.array(np.array(rows, np.uint32)).reshape(*x.shape[:-1], 2)
        return chosen, mx.full(chosen.shape, 0.5)

    for layer in model.layers:
        setattr(layer.block_sparse_moe, "route", route)  # noqa: B010


@contextmanager
def cold_reads() -> Iterator[None]:
    """Inside, what experts are read from is dropped from the system's memory just before."""
    read = os.preadv

    def cold(descriptor: int, buffers: Any, begin: int) -> int:
        size = sum(len(one) for one in buffers)
        os.posix_fadvise(descriptor, begin, size, os.POSIX_FADV_DONTNEED)
        return read(descriptor, buffers, begin)

    with patch("os.preadv", cold):
        yield


if __name__ == "__main__":
    main()
