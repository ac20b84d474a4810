"""Trains the demo model on a processor: `python -m mlx_mistral.demo.train --minutes 80`.

Preload OpenBLAS and set OPENBLAS_NUM_THREADS=1 (see README.md): the batch is split among
threads, one for each core, since MLX does element-wise work on one thread for each that asks.
A run goes on from its last checkpoint when it is started again with the same --out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mistral.demo.architecture import WINDOW
from mlx_mistral.demo.batches import Batch, batches
from mlx_mistral.demo.objective import (
    LATE_RELAY_WEIGHT,
    RELAY_WEIGHT,
    TOKENIZER,
    Objective,
    initial_parameters,
)
from mlx_mistral.demo.optimizer import Parameters, initial_state, update

_WARM_UP_STEPS = 100
_CHECKPOINT_SECONDS = 180.0


@dataclass(kw_only=True)
class Settings:
    """One run. A part of the run is measured in steps if `steps` is given, else in minutes."""

    out: Path
    minutes: float = 80.0
    steps: int = 0
    seed: int = 0
    rows: int = 8
    length: int = 10 * WINDOW
    positions: int = 6 * WINDOW
    workers: int = 2
    muon_rate: float = 0.02
    adam_rate: float = 0.004
    decay: float = 0.1
    stable: float = 0.7


@dataclass
class Progress:
    """Where a run is."""

    step: int = 0
    seconds: float = 0.0

    def share(self, s: Settings) -> float:
        return self.step / s.steps if s.steps else self.seconds / (60 * s.minutes)

    def rate(self, s: Settings) -> float:
        """The factor on learning rates: warm-up, stable, linear decay to zero."""
        decay = (1 - self.share(s)) / (1 - s.stable)
        return max(0.0, min(1.0, (self.step + 1) / _WARM_UP_STEPS, decay))

    def relay_weight(self, s: Settings) -> float:
        """How much handing facts on counts: less once the rates fall and the habit is formed."""
        return RELAY_WEIGHT if self.share(s) < s.stable else LATE_RELAY_WEIGHT


def _split(
    batch: Batch, workers: int, length: int, relay_weight: float
) -> list[tuple[mx.array, ...]]:
    """The rows dealt to workers; positions then count over a worker's flattened rows."""
    parts: list[tuple[mx.array, ...]] = []
    rows = len(batch.inputs) // workers
    for i in range(workers):
        part = slice(i * rows, (i + 1) * rows)
        inputs, weights = mx.array(batch.inputs[part]), mx.array(batch.weights[part])
        offsets = length * mx.arange(rows)[:, None]
        positions = mx.array(batch.positions[part]) + offsets
        places = mx.array(batch.places[part]) + offsets
        facts, distances = mx.array(batch.facts[part]), mx.array(batch.distances[part])
        targets = mx.array(batch.targets[part])
        asked = (places, facts, distances, mx.array(relay_weight))
        parts.append((inputs, positions, targets, weights, *asked))
    return parts


class Trainer:
    """Parameters, moments, and the step, which several threads share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.progress = Progress()
        self.objective = Objective(settings.seed, settings.length)
        self.parameters = initial_parameters(settings.seed)
        self.state = initial_state(self.parameters)
        mx.eval(self.parameters, self.state)
        self._workers = ThreadPoolExecutor(settings.workers)
        gradient = mx.value_and_grad(self.objective)
        names = sorted(self.parameters, key=lambda name: -self.parameters[name].size)
        self._shares = [names[i :: settings.workers] for i in range(settings.workers)]
        self._gradients = [mx.compile(lambda p, b: gradient(p, b)) for _ in range(settings.workers)]
        self._updates = [
            mx.compile(lambda *arrays: self._update(*arrays)) for _ in range(settings.workers)
        ]

    def _update(
        self, old: Parameters, grads: list[Parameters], state: Parameters, numbers: mx.array
    ) -> tuple[Parameters, Parameters]:
        """Some parameters after a step; numbers: step, Muon's rate, Adam's rate."""
        new: Parameters = {}
        moments: Parameters = {}
        for name, p in old.items():
            g = sum((one[name] for one in grads[1:]), grads[0][name]) / len(grads)
            new[name], after = update(
                name, p, g, state, numbers[0], (numbers[1], numbers[2]), self.settings.decay
            )
            moments |= after
        return new, moments

    def step(self, batch: Batch) -> mx.array:
        """One step; returns the objective's log, summed over the workers."""
        s = self.settings
        rate = self.progress.rate(s)
        numbers = mx.array([self.progress.step + 1, s.muon_rate * rate, s.adam_rate * rate])
        parts = _split(batch, s.workers, s.length, self.progress.relay_weight(s))
        mx.eval(numbers, parts)

        def differentiate(gradient: Callable[..., Any], part: Any) -> tuple[mx.array, Parameters]:
            (_, log), grads = gradient(self.parameters, part)
            mx.eval(log, grads)
            return log, grads

        def apply(update: Callable[..., Any], names: list[str]) -> tuple[Parameters, Parameters]:
            mine = [{n: g[n] for n in names} for g in grads]
            old = {n: self.parameters[n] for n in names}
            moments = {k: self.state[k] for k in self.state if k[:-2] in old}
            new: tuple[Parameters, Parameters] = update(old, mine, moments, numbers)
            mx.eval(new)
            return new

        done = list(self._workers.map(differentiate, self._gradients, parts))
        grads = [g for _, g in done]
        for new, moments in list(self._workers.map(apply, self._updates, self._shares)):
            self.parameters |= new
            self.state |= moments
        self.progress.step += 1
        return mx.stack([log for log, _ in done]).sum(axis=0)

    def close(self) -> None:
        """Ends the threads."""
        self._workers.shutdown()

    def save(self) -> None:
        """Writes checkpoint and shippable weights; a kill in between leaves the old ones."""
        out = self.settings.out
        metadata = {"step": str(self.progress.step), "seconds": str(self.progress.seconds)}
        for name, arrays in (
            ("checkpoint", {**self.parameters, **self.state}),
            ("weights", self.objective.finished(self.parameters)),
        ):
            unfinished = out / f"unfinished-{name}.safetensors"
            mx.save_safetensors(str(unfinished), arrays, metadata)
            os.replace(unfinished, out / f"{name}.safetensors")

    def resume(self) -> None:
        """Goes on from the checkpoint in `out`, if there is one."""
        path = self.settings.out / "checkpoint.safetensors"
        if path.exists():
            loaded: Any = mx.load(str(path), return_metadata=True)
            arrays, metadata = loaded
            mx.eval(arrays)
            self.parameters = {name: arrays.get(name, p) for name, p in self.parameters.items()}
            self.state = {name: arrays.get(name, p) for name, p in self.state.items()}
            self.progress = Progress(int(metadata["step"]), float(metadata["seconds"]))


def train(settings: Settings) -> None:
    """Runs to the end of the schedule, logging to `out/log.jsonl`."""
    settings.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings)
    trainer.resume()
    progress, saved, shown, log = trainer.progress, time.monotonic(), 0, mx.zeros(6)
    stream = batches(
        TOKENIZER,
        seed=settings.seed,
        start=progress.step,
        rows=settings.rows,
        length=settings.length,
        positions=settings.positions,
    )
    while progress.share(settings) < 1.0:
        start = time.monotonic()
        log = log + trainer.step(next(stream))
        mx.eval(log)
        shown += 1
        progress.seconds += time.monotonic() - start
        if progress.step % 50 == 0:
            _write_log(settings, progress, np.array(log), shown * settings.workers)
            log, shown = mx.zeros(6), 0
        if time.monotonic() - saved > _CHECKPOINT_SECONDS:
            trainer.save()
            saved = time.monotonic()
    trainer.save()
    trainer.close()


def _write_log(
    settings: Settings, progress: Progress, log: npt.NDArray[np.float32], passes: int
) -> None:
    plain, n_plain, recalled, n_recalled, balance, relay = (float(one) for one in log)
    line = {
        "step": progress.step,
        "seconds": round(progress.seconds, 1),
        "loss": round(plain / n_plain, 4),
        "recall_loss": round(recalled / n_recalled, 4),
        "relay_loss": round(relay / passes, 4),
        "balance": round(balance / passes, 3),
        "rate": round(progress.rate(settings), 3),
    }
    with (settings.out / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    default = Path.home() / ".cache" / "mlx-mistral" / "demo-training"
    parser.add_argument("--out", type=Path, default=default, help="checkpoints and log")
    parser.add_argument("--minutes", type=float, default=80.0)
    parser.add_argument("--steps", type=int, default=0, help="length in steps, not minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=8, help="chats a step")
    parser.add_argument("--workers", type=int, default=2, help="threads, one a core")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.004)
    train(Settings(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
