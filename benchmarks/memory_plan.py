"""What memory plans promise, beside what MLX reports while the models run.

    python benchmarks/memory_plan.py [--context N ...] [--case NAME ...]

Each case is a random model in a temporary folder, loaded and run in a process of its own: a
prompt that fills the context but for the reply, then, where a layer has a window, the same
context over the turns of a Chat. Sizes are in MB of 10^6 bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPLY = 20
"""Tokens that are decoded after the prompt."""
TURNS = 4
BASE: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 1024,
    "vocab_size": 2304,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "max_position_embeddings": 1 << 17,
    "tie_word_embeddings": False,
}
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
MIXED = {
    "model_type": "ministral",
    "sliding_window": 1024,
    "layer_types": ["full_attention", *["sliding_attention"] * 5],
}


TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 128,
}
"""For texts so long that attention over them would otherwise take minutes."""
TINY_MIXED = TINY | MIXED | {"layer_types": ["full_attention", *["sliding_attention"] * 2]}
YARN = {
    "model_type": "ministral3",
    "tie_word_embeddings": True,
    "rope_parameters": {
        "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
        "llama_4_scaling_beta": 0.1,
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model by its differences from the base, and the contexts it is run at."""

    contexts: tuple[int, ...]
    config: dict[str, Any] = field(default_factory=dict)
    bits: int | None = None
    dtype: str = "float32"
    kv_bits: int | None = None


WINDOW, NARROW = {"sliding_window": 1024}, {"sliding_window": 64}
CASES = {
    "demo": Case(contexts=(256, 1024)),
    "demo, 8-bit cache": Case(contexts=(1024,), kv_bits=8),
    "demo, 4-bit cache": Case(contexts=(1024,), kv_bits=4),
    "full": Case(contexts=(1024, 4096)),
    "full, 8-bit cache": Case(contexts=(1024, 4096), kv_bits=8),
    "full, 4-bit cache": Case(contexts=(1024, 4096), kv_bits=4),
    "full 4-bit": Case(contexts=(1024, 4096), bits=4),
    "full 4-bit, 4-bit cache": Case(contexts=(4096,), bits=4, kv_bits=4),
    "full bf16": Case(contexts=(1024,), dtype="bfloat16"),
    "small": Case(contexts=(16384, 65536), config=TINY),
    "small, 8-bit cache": Case(contexts=(16384, 65536), config=TINY, kv_bits=8),
    "small, 4-bit cache": Case(contexts=(16384, 65536), config=TINY, kv_bits=4),
    "wide feed-forward": Case(contexts=(1024, 4096), config={"intermediate_size": 4096}),
    "large vocabulary": Case(contexts=(256, 1024), config={"vocab_size": 65536}),
    "deep": Case(contexts=(1024, 4096), config={"num_hidden_layers": 16}),
    "yarn, tied": Case(contexts=(1024, 4096), config=YARN),
    "window 64": Case(contexts=(1024, 4096), config=NARROW),
    "window 64, 4-bit cache": Case(contexts=(4096,), config=NARROW, kv_bits=4),
    "window 1024": Case(contexts=(1024, 4096, 16384, 65536), config=WINDOW),
    "window 1024, 8-bit cache": Case(contexts=(4096, 16384), config=WINDOW, kv_bits=8),
    "window 1024, 4-bit cache": Case(contexts=(4096, 65536), config=WINDOW, kv_bits=4),
    "window 1024 4-bit": Case(contexts=(4096,), config=WINDOW, bits=4),
    "mixed windows": Case(contexts=(1024, 4096, 16384), config=MIXED),
    "mixed windows, 4-bit cache": Case(contexts=(4096,), config=MIXED, kv_bits=4),
    "small, mixed windows": Case(contexts=(65536,), config=TINY_MIXED),
    "mixtral": Case(contexts=(1024, 4096), config=MIXTRAL),
    "mixtral, 4-bit cache": Case(contexts=(4096,), config=MIXTRAL, kv_bits=4),
    "mixtral, window 1024": Case(contexts=(4096,), config=MIXTRAL | WINDOW),
    "mixtral 4-bit": Case(contexts=(1024, 4096), config=MIXTRAL, bits=4),
    "mixtral bf16": Case(contexts=(1024,), config=MIXTRAL, dtype="bfloat16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES, help="only these cases")
    parser.add_argument("--context", action="append", type=int, help="only these contexts")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measure(args.run[0], int(args.run[1]))))
        return
    columns = ("weights", "", "cache", "", "workspace", "", "total", "", "promise kept")
    print("case".ljust(30) + "".join(name.rjust(10) for name in columns[:-1]), columns[-1])
    for name in args.case or CASES:
        for context in CASES[name].contexts:
            if not args.context or context in args.context:
                print(row(f"{name}, {context}", run_apart(name, context)), flush=True)


def run_apart(name: str, context: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--run", name, str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(label: str, result: dict[str, Any]) -> str:
    """Promised and measured side by side, and how far the sum lies above the peak."""
    cells = [f"{n / 1e6:.1f}".rjust(10) for pair in result["pairs"] for n in pair]
    promised, measured = result["pairs"][-1]
    verdict = "yes" if promised >= measured else "NO"
    return label.ljust(30) + "".join(cells) + f"  {verdict}, {promised / measured:.2f}x"


def measure(name: str, context: int) -> dict[str, Any]:
    """Pairs of promised and measured bytes: weights, cache, workspace, total."""
    case = CASES[name]
    if name.startswith("demo"):
        from mlx_mistral import demo

        return _measure(case, Path(demo.model_path()), context)
    with tempfile.TemporaryDirectory() as folder:
        # The model that is written must be gone before the one that is measured is loaded.
        write = [sys.executable, "-c", f"import memory_plan as m; m.write({name!r}, {folder!r})"]
        subprocess.run(write, cwd=Path(__file__).parent, check=True)
        return _measure(case, Path(folder), context)


def _measure(case: Case, folder: Path, context: int) -> dict[str, Any]:
    import mlx.core as mx

    from mlx_mistral import demo, load_model, load_tokenizer
    from mlx_mistral.checkpoint import read_folder
    from mlx_mistral.completion import stream_generate
    from mlx_mistral.memory import loading_bytes, plan_memory, weights_in_memory

    headers = read_folder(folder)
    size = 4 if case.dtype == "float32" else 2
    config = headers.config
    gathers = bool(config.moe) and size == 2 and config.quantization is None
    plan = plan_memory(
        config,
        weights_bytes=weights_in_memory(headers.parameters, size),
        context=context,
        budget_bytes=1 << 40,
        activation_bytes=size,
        gathers_float32=gathers,
        loading_bytes=loading_bytes(headers.parameters, case.dtype),
        kv_bits=case.kv_bits,
    )
    model = load_model(folder, dtype=case.dtype)
    weights = mx.get_active_memory()
    cache = model.make_cache(kv_bits=case.kv_bits)
    ids = random.Random(0).choices(range(2000), k=context - REPLY)
    for _ in stream_generate(model, None, ids, max_tokens=REPLY, prompt_cache=cache):
        pass
    held = sum(one.nbytes for one in cache)
    if any(config.windows):
        del cache
        converse(model, load_tokenizer(demo.model_path()), context, case.kv_bits)
    peak = mx.get_peak_memory()
    pairs = [
        (plan.weights_bytes, weights),
        (plan.cache_bytes, held),
        (plan.workspace_bytes, peak - weights - held),
        (plan.total_bytes, peak),
    ]
    return {"pairs": pairs}


def converse(model: Any, tokenizer: Any, context: int, kv_bits: int | None) -> None:
    """A chat whose turns together come close to the context."""
    from mlx_mistral import Chat

    chat = Chat(model, tokenizer, max_tokens=REPLY, kv_bits=kv_bits)
    words = "one two three four five six seven eight nine ten".split()
    per_turn = context // TURNS - REPLY - 40
    for turn in range(TURNS):
        text = random.Random(turn).choices(words, k=per_turn)
        while len(tokenizer.encode(" ".join(text))) > per_turn:
            text = text[: len(text) * 9 // 10]
        for _ in chat.send(" ".join(text)):
            pass


def write(name: str, folder: str) -> None:
    """The case's model with random weights, as a converter would leave it."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    from mlx_mistral import ModelConfig
    from mlx_mistral.model import Model

    case = CASES[name]
    config = BASE | case.config
    model = Model(ModelConfig.from_hf(config))
    model.set_dtype(getattr(mx, case.dtype))
    if case.bits:
        config["quantization"] = {"group_size": 64, "bits": case.bits}
        nn.quantize(
            model,
            bits=case.bits,
            group_size=64,
            class_predicate=lambda path, module: (
                hasattr(module, "to_quantized") and not path.endswith("gate")
            ),
        )
    mx.save_safetensors(f"{folder}/model.safetensors", dict(tree_flatten(model.parameters())))
    Path(folder, "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
