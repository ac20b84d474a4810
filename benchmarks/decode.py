"""Decoding against mlx-lm: the same folder, one process, in turn, the same tokens.

    python benchmarks/decode.py FOLDER [--tokens 64] [--prompt 32] [--pairs 20]

Time from the first token to the last, of both programs one after the other, the order changing
with each pair. Ratios above 1 are in our favour. On the CPU, preload a fast BLAS for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_peer

from mlx_mistral import load_model
from mlx_mistral.generation import Sampler, Sampling, generate_ids
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.generation.step import NextToken

Tokens = Callable[[], Iterator[int]]


def timed(tokens: Tokens) -> tuple[list[int], float, float, int]:
    """The tokens; wall and processor seconds of all but the first; peak bytes."""
    mx.synchronize()
    mx.reset_peak_memory()
    made = tokens()
    out = [next(made)]
    wall, processor = time.perf_counter(), time.process_time()
    out += made
    mx.synchronize()
    seconds = time.perf_counter() - wall, time.process_time() - processor
    return out, *seconds, mx.get_peak_memory()


def ratios(theirs: list[float], ours: list[float]) -> dict[str, float]:
    each = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    quarter = len(each) // 4
    return {
        "median": round(statistics.median(each), 3),
        "quartile_1": round(each[quarter], 3),
        "quartile_3": round(each[-1 - quarter], 3),
        "of_the_fastest": round(min(theirs) / min(ours), 3),
    }


def build_ms(step: Callable[[], Any], n: int = 30) -> float:
    """Milliseconds to build one step and submit it, the fastest of n."""
    times = []
    for _ in range(n):
        start = time.perf_counter()
        arrays = step()
        mx.async_eval(arrays)
        times.append(time.perf_counter() - start)
        mx.eval(arrays)
    return round(1e3 * min(times), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args()
    peer, _ = load_peer(Path(args.folder))
    model = load_model(args.folder)
    vocab = model.config.vocab_size
    prompt = [(7 * i * i + 3 * i + 11) % vocab for i in range(args.prompt)]

    def theirs() -> Iterator[int]:
        for token, _ in generate_step(mx.array(prompt), peer, max_tokens=args.tokens):
            yield token

    def ours() -> Iterator[int]:
        for step in generate_ids(
            model,
            prompt,
            cache=model.make_cache(),
            sampling=Sampling(),
            max_tokens=args.tokens,
        ):
            yield step.token

    programs: dict[str, Tokens] = {"mlx-lm": theirs, "mlx-mistral": ours}
    for tokens in programs.values():
        timed(tokens)
    runs: dict[str, list[Any]] = {name: [] for name in programs}
    for n in range(args.pairs):
        for name in list(programs) if n % 2 else list(reversed(programs)):
            runs[name].append(timed(programs[name]))
    equal = all(a[0] == b[0] for a, b in zip(runs["mlx-lm"], runs["mlx-mistral"], strict=True))
    peer_cache = make_prompt_cache(peer)
    mx.eval(peer(mx.array([prompt]), cache=peer_cache))
    cache = model.make_cache()
    token = mx.argmax(prefill(model, mx.array([prompt]), cache, step_size=512), axis=-1)
    next_token = NextToken(model, cache, Sampler(Sampling(), vocab, [prompt]))
    last = mx.array([[1]])
    print(
        json.dumps(
            {
                "folder": args.folder,
                "mlx": mx.__version__,
                "pairs": args.pairs,
                "same_tokens": equal,
                "wall": ratios(*([r[1] for r in runs[name]] for name in programs)),
                "processor": ratios(*([r[2] for r in runs[name]] for name in programs)),
                "peak_bytes": {name: max(r[3] for r in runs[name]) for name in programs},
                "build_and_submit_ms": {
                    "mlx-lm": build_ms(lambda: mx.argmax(peer(last, cache=peer_cache), -1)),
                    "mlx-mistral": build_ms(lambda: next_token(token)[1]),
                },
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
