"""How fast the converter is, against copying the same files, and what memory it takes.

    python benchmarks/conversion.py [--layers 1 2 4] [--trials 3] [--folder DIR]

Writes Hugging Face folders of Mixtral 8x7B's shapes (full-size tensors, fewer layers, random
bfloat16 numbers), then in turn copies each and converts it to 4 bits in a process of its own.
Prints a Markdown table: GB read a second, their ratio, and the process's peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DIM, HIDDEN, VOCAB, HEADS, KV_HEADS, HEAD_DIM, EXPERTS = 4096, 14336, 32000, 32, 8, 128, 8


def shapes(n_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCAB, DIM)
    for n in range(n_layers):
        layer = f"model.layers.{n}"
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield f"{layer}.self_attn.{name}_proj.weight", (heads * HEAD_DIM, DIM)
        yield f"{layer}.self_attn.o_proj.weight", (DIM, HEADS * HEAD_DIM)
        yield f"{layer}.input_layernorm.weight", (DIM,)
        yield f"{layer}.post_attention_layernorm.weight", (DIM,)
        yield f"{layer}.block_sparse_moe.gate.weight", (EXPERTS, DIM)
        for e in range(EXPERTS):
            expert = f"{layer}.block_sparse_moe.experts.{e}"
            yield f"{expert}.w1.weight", (HIDDEN, DIM)
            yield f"{expert}.w2.weight", (DIM, HIDDEN)
            yield f"{expert}.w3.weight", (HIDDEN, DIM)
    yield "model.norm.weight", (DIM,)
    yield "lm_head.weight", (VOCAB, DIM)


def write_model(folder: Path, n_layers: int) -> int:
    """One safetensors file; returns its bytes."""
    folder.mkdir()
    config = {
        "model_type": "mixtral", "hidden_size": DIM, "intermediate_size": HIDDEN,
        "num_hidden_layers": n_layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "num_local_experts": EXPERTS, "num_experts_per_tok": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    # One block of numbers, begun at another place for each tensor: random enough to quantize.
    numbers = np.random.default_rng(0).standard_normal(DIM * HIDDEN + 4096).astype(np.float32)
    block = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    header, position = {}, 0
    for name, shape in shapes(n_layers):
        size = 2 * int(np.prod(shape))
        header[name] = {
            "dtype": "BF16",
            "shape": shape,
            "data_offsets": [position, position + size],
        }
        position += size
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for number, (_, shape) in enumerate(shapes(n_layers)):
            count = int(np.prod(shape))
            while count:
                part = min(count, block.size - 4096)
                file.write(block[number % 4096 : number % 4096 + part].data)
                count -= part
    return position


def copy(source: Path, dest: Path) -> float:
    began = time.perf_counter()
    shutil.copytree(source, dest)
    with (dest / "model.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - began


def convert(source: Path, dest: Path, flags: list[str]) -> tuple[float, int]:
    command = [sys.executable, "-m", "mlx_mistral", "convert", source, dest, "--json", *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures = json.loads(done.stdout)
    return figures["seconds"], figures["peak_memory_bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    args, flags = parser.parse_known_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| layers | source GB | copy GB/s | convert GB/s | ratio | peak resident MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n_layers in args.layers:
        with tempfile.TemporaryDirectory(dir=args.folder) as work:
            root = Path(work)
            n_bytes = write_model(root / "source", n_layers)
            copies, conversions, peaks = [], [], []
            for _ in range(args.trials):
                copies.append(n_bytes / copy(root / "source", root / "copy") / 1e9)
                shutil.rmtree(root / "copy")
                seconds, peak = convert(root / "source", root / "result", flags)
                conversions.append(n_bytes / seconds / 1e9)
                peaks.append(peak)
                shutil.rmtree(root / "result")
            ratios = [a / b for a, b in zip(conversions, copies, strict=True)]
            print(
                f"| {n_layers} | {n_bytes / 1e9:.2f} | {spread(copies)} | {spread(conversions)} "
                f"| {spread(ratios)} | {max(peaks) / 1e6:.0f} |",
                flush=True,
            )


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
