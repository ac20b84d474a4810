"""A conversation reopened from disk against reading it again, and what checking the files costs.

python benchmarks/prompt_cache.py [--tokens N]

The demo is driven as the window drives it, by time to first token. The random model has no
window, so that every key goes to disk and back; it is timed from token ids to a filled cache.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_mistral.config import ModelConfig
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.live.commands import Load, Message, Reply, Settings
from mlx_mistral.live.engine import LiveEngine
from mlx_mistral.live.events import Event, Finished, Piece
from mlx_mistral.model import Model
from mlx_mistral.prompt_cache import PromptCacheStore
from mlx_mistral.prompt_cache.checksum import digest

SENTENCE = "The market is behind the church, and the baker opens at seven in the morning. "
TOKENS_OF_SENTENCE = 31
TRIALS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4000)
    n_tokens = parser.parse_args().tokens
    with tempfile.TemporaryDirectory() as folder:
        compare_chat(PromptCacheStore(Path(folder) / "chat", limit_bytes=1 << 32), n_tokens)
        compare_model(PromptCacheStore(Path(folder) / "model", limit_bytes=1 << 32), n_tokens)


def compare_chat(store: PromptCacheStore, n_tokens: int) -> None:
    question = Message(role="user", content=SENTENCE * (n_tokens // TOKENS_OF_SENTENCE))
    text, end = reply(store, question)
    answer = Message(role="assistant", content=text, token_ids=end.token_ids)
    follow = Message(role="user", content="And then?")
    reads, loads = [], []
    for _ in range(TRIALS):
        reads.append(reply(None, question, answer, follow)[1])
        loads.append(reply(store, question, answer, follow)[1])
    read, load = median_first(reads), median_first(loads)
    again = loads[-1].progress
    print(
        f"demo chat: {again.prompt_tokens} tokens, {again.reused_tokens} from disk; first token "
        f"after {load:.3f} s, read anew {read:.3f} s: {read / load:.1f} times faster"
    )


def reply(store: PromptCacheStore | None, *messages: Message) -> tuple[str, Finished]:
    """A reply of a newly loaded demo: its text and its end."""
    engine = LiveEngine(caches=store, idle_seconds=60.0, worth_seconds=0.0)
    events: queue.Queue[Event] = queue.Queue()
    engine.start(events.put)
    engine.submit(Load(model="demo"))
    engine.submit(Reply(id=1, messages=messages, settings=Settings(max_tokens=12)))
    text = ""
    while not isinstance(event := events.get(timeout=600), Finished):
        text += event.text if isinstance(event, Piece) else ""
    engine.close()
    return text, event


def median_first(ends: list[Finished]) -> float:
    return statistics.median(end.progress.first_token_seconds or 0.0 for end in ends)


def compare_model(store: PromptCacheStore, n_tokens: int) -> None:
    model = random_model()
    ids = np.random.default_rng(0).integers(0, 1000, n_tokens).tolist()
    reads, saves, loads, checks = [], [], [], []
    for trial in range(TRIALS):
        layers, start = model.make_cache(), time.perf_counter()
        prefill(model, mx.array([ids]), layers, step_size=512)
        reads.append(time.perf_counter() - start)
        start = time.perf_counter()
        store.save(f"trial {trial}", ids, layers)
        saves.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = store.find(f"trial {trial}", [*ids, 1])
        assert found is not None
        assert store.load(found, model.make_cache) is not None
        loads.append(time.perf_counter() - start)
        start = time.perf_counter()
        for entry in store.entries()[-1:]:
            digest(store.folder / entry.file)
        checks.append(time.perf_counter() - start)
    nbytes = store.nbytes // TRIALS
    read, load = statistics.median(reads), statistics.median(loads)
    save, check = statistics.median(saves), statistics.median(checks)
    print(
        f"random model: {n_tokens} tokens, {nbytes / 1e6:.0f} MB on disk; reopened in {load:.3f} s "
        f"(checksum {check:.3f} s), saved in {save:.3f} s, read anew in {read:.2f} s: "
        f"{read / load:.1f} times faster"
    )


def random_model() -> Model:
    config = ModelConfig.from_params(
        {
            "dim": 512, "n_layers": 8, "head_dim": 64, "hidden_dim": 1536, "n_heads": 8,
            "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": 1000,
        }
    )  # fmt: skip
    model = Model(config)
    mx.eval(model.parameters())
    return model


if __name__ == "__main__":
    main()
