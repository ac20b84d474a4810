"""What memory plans promise, beside what MLX reports while the models run.

    python benchmarks/memory_plan.py [--case NAME ...] [--context N ...]

Each cell is a random model in a temporary folder (the demo: the bundled one), loaded and run in a
process of its own: a prompt that fills the context but for the reply, then, where a layer has a
window, the same context over the turns of a Chat. In MB of 10^6 bytes: the plan's total, the
measured peak, and their ratio. The last column has the worst differences of weights and cache.
`MLX_MISTRAL_BACKEND=mlx` measures plain operations on MLX's CPU device, the code path of a Mac;
without it the overrides of the CPU device are measured.
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
CONTEXTS = (1024, 4096, 16384, 65536)
LONG = 16384
"""From here on models are narrow: attention over so much would otherwise take minutes."""
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
NARROW = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 128,
}
YARN = {
    "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
}  # fmt: skip
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
WINDOW = {"sliding_window": 1024}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {},
    "window": WINDOW,
    "mixtral": MIXTRAL,
    "mixtral, window": MIXTRAL | WINDOW,
    "nemo": {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128},
    "ministral": WINDOW
    | {"model_type": "ministral", "layer_types": ["full_attention", *["sliding_attention"] * 2]},
    "ministral3": {
        "model_type": "ministral3", "tie_word_embeddings": True,
        "rope_parameters": YARN | {"llama_4_scaling_beta": 0.1},
    },
    "devstral2": {
        "model_type": "ministral3", "rope_parameters": YARN | {"factor": 64.0},
    },
    "mistral3": {"model_type": "mistral3"},
}  # fmt: skip
"""By what sets them apart; a `mistral3` holds its text model's numbers in `text_config`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A family's model by its differences from the base, and the contexts it is run at."""

    family: str = "mistral"
    contexts: tuple[int, ...] = CONTEXTS
    changes: dict[str, Any] = field(default_factory=dict)
    bits: int | None = None
    dtype: str = "float32"
    kv_bits: int | None = None
    held: float = 1.0
    """Share of the experts in memory."""

    def config(self, context: int) -> dict[str, Any]:
        """Its config.json."""
        narrow = NARROW if context >= LONG else {}
        config = BASE | narrow | FAMILIES[self.family] | self.changes
        layers = config["num_hidden_layers"]
        if "layer_types" in config:
            config["layer_types"] = (config["layer_types"] * layers)[:layers]
        if self.family == "mistral3":
            config = {"model_type": "mistral3", "text_config": config | {"model_type": "mistral"}}
        if self.bits:
            config["quantization"] = {"group_size": 64, "bits": self.bits}
        return config


SHORT = CONTEXTS[:2]
CASES = {
    "demo": Case(contexts=(1024,)),
    "demo, 8-bit cache": Case(contexts=(1024,), kv_bits=8),
    "demo, 4-bit cache": Case(contexts=(1024,), kv_bits=4),
    **{name: Case(family=name) for name in FAMILIES},
    **{
        f"{name}, {bits}-bit cache": Case(family=name, kv_bits=bits, contexts=contexts)
        for bits, contexts in ((8, CONTEXTS[0::2]), (4, CONTEXTS[1::2]))
        for name in FAMILIES
    },
    **{f"{name}, 4 bits": Case(family=name, bits=4, contexts=SHORT[:1]) for name in FAMILIES},
    **{f"{name}, bf16": Case(family=name, dtype="bfloat16", contexts=(1024,)) for name in FAMILIES},
    "mistral, 4 bits, 4-bit cache": Case(bits=4, kv_bits=4, contexts=SHORT[:1]),
    "mixtral, 4 bits, a third of its experts": Case(
        family="mixtral", bits=4, held=1 / 3, contexts=SHORT[:1]
    ),
    "mixtral, half of its experts": Case(family="mixtral", held=0.5, contexts=SHORT),
    "window of 64": Case(family="window", changes={"sliding_window": 64}),
    "window of 64, 4-bit cache": Case(family="window", changes={"sliding_window": 64}, kv_bits=4),
    "wide feed-forward": Case(changes={"intermediate_size": 4096}, contexts=SHORT),
    "large vocabulary": Case(changes={"vocab_size": 65536}, contexts=SHORT),
    "16 layers": Case(changes={"num_hidden_layers": 16}, contexts=SHORT),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", action="append", choices=CASES, help="only these cases")
    parser.add_argument("--context", action="append", type=int, help="only these contexts")
    parser.add_argument("--results", type=Path, help="keep measurements here, and go on from them")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measure(args.run[0], int(args.run[1]))))
        return
    done = json.loads(args.results.read_text()) if args.results and args.results.exists() else {}
    print("| case |", *(f"{context} tokens |" for context in CONTEXTS), "weights, cache |")
    print("| --- |", *("---: |" for _ in CONTEXTS), "---: |")
    for name in args.case or CASES:
        asked = [n for n in CASES[name].contexts if n in (args.context or CONTEXTS)]
        for context in asked:
            label = f"{name}, {context}"
            if label not in done:
                done[label] = run_apart(name, context)
            if args.results:
                args.results.write_text(json.dumps(done))
        if asked:
            print(row(name, {n: done[f"{name}, {n}"] for n in asked}), flush=True)


def run_apart(name: str, context: int) -> dict[str, list[int]]:
    command = [sys.executable, __file__, "--run", name, str(context)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}, {context}: exit status {done.returncode}\n{done.stderr}")
    result: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return result


def row(name: str, found: dict[int, dict[str, list[int]]]) -> str:
    """Promised and measured, and how far promises of weights and cache are off at worst."""
    cells = [_cell(found[context]["total"]) if context in found else "" for context in CONTEXTS]
    off = [max(_off(one[part]) for one in found.values()) for part in ("weights", "cache")]
    return " | ".join([f"| {name}", *cells, ", ".join(f"{one:.1%}" for one in off)]) + " |"


def _cell(pair: list[int]) -> str:
    promised, measured = pair
    ratio = f"{promised / measured:.2f}x" if promised >= measured else "**BROKEN**"
    return f"{promised / 1e6:.1f} / {measured / 1e6:.1f}, {ratio}"


def _off(pair: list[int]) -> float:
    promised, measured = pair
    return abs(promised / measured - 1)


def measure(name: str, context: int) -> dict[str, list[int]]:
    """Bytes promised and measured: weights, cache, total."""
    case = CASES[name]
    if name.startswith("demo"):
        from mlx_mistral import demo

        return _measure(case, Path(demo.model_path()), context)
    with tempfile.TemporaryDirectory() as folder:
        # The model that is written must be gone before the one that is measured is loaded.
        call = f"memory_plan.write({name!r}, {context}, {folder!r})"
        write = [sys.executable, "-c", f"import memory_plan; {call}"]
        subprocess.run(write, cwd=Path(__file__).parent, check=True)
        return _measure(case, Path(folder), context)


def _measure(case: Case, folder: Path, context: int) -> dict[str, list[int]]:
    import mlx.core as mx

    from mlx_mistral import demo, load_model, load_tokenizer
    from mlx_mistral.backend.select import active_backend
    from mlx_mistral.checkpoint import read_folder
    from mlx_mistral.completion import stream_generate
    from mlx_mistral.memory import ModelNeeds
    from mlx_mistral.memory.streamed import expert_bytes
    from mlx_mistral.model import Model
    from mlx_mistral.streaming import load_streaming

    headers = read_folder(folder)
    config = headers.config
    needs = ModelNeeds.of(headers, dtype=case.dtype, scratch=active_backend().scratch)
    plan = needs.plan(context, 1 << 40, case.kv_bits)
    model: Model
    missing = 0
    if case.held < 1:
        assert config.moe is not None
        n_experts = config.n_layers * config.moe.num_experts
        slots = round(case.held * n_experts)
        missing = (n_experts - slots) * expert_bytes(headers, needs.activation_bytes)
        model = load_streaming(folder, slots=slots, dtype=case.dtype)
    else:
        model = load_model(folder, dtype=case.dtype)
    weights = mx.get_active_memory() + model.reserved_bytes
    cache = model.make_cache(kv_bits=case.kv_bits)
    ids = random.Random(0).choices(range(2000), k=context - REPLY)
    for _ in stream_generate(model, None, ids, max_tokens=REPLY, prompt_cache=cache):
        pass
    held = sum(one.nbytes for one in cache)
    if any(config.windows):
        del cache
        converse(model, load_tokenizer(demo.model_path()), context, case.kv_bits)
    return {
        "weights": [plan.weights_bytes - missing, weights],
        "cache": [plan.cache_bytes, held],
        "total": [plan.total_bytes - missing, mx.get_peak_memory()],
    }


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


def write(name: str, context: int, folder: str) -> None:
    """The case's model with random weights, as a converter would leave it."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    from mlx_mistral import ModelConfig
    from mlx_mistral.model import Model

    case = CASES[name]
    config = case.config(context)
    model = Model(ModelConfig.from_hf(config))
    model.set_dtype(getattr(mx, case.dtype))
    if case.bits:
        nn.quantize(
            model,
            bits=case.bits,
            group_size=64,
            class_predicate=lambda path, module: (
                hasattr(module, "to_quantized") and not path.endswith("gate")
            ),
        )
    prefix = "language_model." if "text_config" in config else ""
    weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    named = {prefix + name: one for name, one in weights.items()}
    mx.save_safetensors(f"{folder}/model.safetensors", named)
    Path(folder, "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
