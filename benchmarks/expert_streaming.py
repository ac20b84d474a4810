"""What streaming experts costs and saves, in speed and memory.

    python benchmarks/expert_streaming.py hits
    python benchmarks/expert_streaming.py speed FOLDER
    python benchmarks/expert_streaming.py limit FOLDER [--layers 4] [--slots 8] [--limit-mb 1900]

`hits` decodes a text with the bundled model, its own routing and a uniform one, for several shares
of the experts in memory. `speed` compares a folder's model streamed and resident, in turn. `limit`
writes a random 4-bit Mixtral with the layers of 8x7B into FOLDER, generates with it in a process
that the system holds to less memory than the file has, and deletes it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_mistral import generate, load
from mlx_mistral.checkpoint import load_model, read_folder
from mlx_mistral.demo import model_path
from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.model import Model
from mlx_mistral.streaming import (
    StreamedModel,
    expected_hit_rate,
    load_streaming,
    measured_disk_speed,
)

DIM, HIDDEN, HEADS, KV_HEADS, EXPERTS, VOCAB, GROUP = 4096, 14336, 32, 8, 8, 32000, 64
"""Of Mixtral 8x7B."""
PROMPT = "Tell me about the sea, then about the moon, and in the end say what two and three make."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("hits", "speed", "limit", "child"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--limit-mb", type=int, default=1900)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--resident", action="store_true", help="load it whole (child)")
    args = parser.parse_args()
    if args.what == "hits":
        hits()
    elif args.what == "speed":
        speed(args.folder, args.tokens)
    elif args.what == "limit":
        limit(args.folder, args.layers, args.slots, args.limit_mb, args.tokens)
    else:
        child(args.folder, args.slots, args.tokens, args.resident)


def hits() -> None:
    """A table of hit rates and speeds over the share of the demo's experts in memory."""
    _, tokenizer = load("demo")
    total = 48
    print("routing                 share slots   hits with late  reads a choice expected tokens/s")
    for routing in ("its own", "its own, no read-ahead", "uniform"):
        for share in (0.125, 0.25, 0.5, 0.75, 1.0):
            slots = max(2, round(share * total))
            model = load_streaming(model_path(), slots=slots, read_ahead=routing == "its own")
            if routing == "uniform":
                _route_uniformly(model)
            generate(model, tokenizer, PROMPT, max_tokens=40)
            stats = model.streaming.stats
            stats.reset()
            start = time.perf_counter()
            n = 200
            generate(model, None, tokenizer.encode("The")[:1], max_tokens=n, temp=0.9, seed=1)
            tps = n / (time.perf_counter() - start)
            served = (stats.hits + stats.late) / stats.chosen
            reads = (stats.misses + stats.read_ahead) / stats.chosen
            print(
                f"{routing:22} {share:6.1%} {slots:5d} {stats.hit_rate:6.1%} {served:9.1%}"
                f" {reads:15.2f} {expected_hit_rate(slots, total):8.1%} {tps:8.0f}",
                flush=True,
            )
            model.streaming.close()


def speed(folder: Path, n_tokens: int) -> None:
    """Decoding resident and streamed with all experts in memory, in turn, wall and CPU time."""
    config = read_folder(folder).config
    assert config.moe is not None
    total = config.n_layers * config.moe.num_experts
    models: dict[str, Model] = {
        "resident": load_model(folder),
        "streamed, all": load_streaming(folder, slots=total),
        "streamed, half": load_streaming(folder, slots=total // 2),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for trial in range(5):
        for name, model in models.items():
            start, cpu = time.perf_counter(), time.process_time()
            for _ in _ids(model, n_tokens):
                pass
            if trial:
                spent = time.perf_counter() - start, time.process_time() - cpu
                times[name].append(spent)
    for name, all_spent in times.items():
        wall, cpu = (min(column) for column in zip(*all_spent, strict=True))
        model = models[name]
        hit = model.streaming.stats.hit_rate if isinstance(model, StreamedModel) else 1.0
        print(f"{name:15} {n_tokens / wall:7.2f} tokens/s, {cpu / n_tokens:.3f} CPU s a token, "
              f"hits {hit:.1%}")  # fmt: skip


def limit(folder: Path, layers: int, slots: int, limit_mb: int, tokens: int) -> None:
    """Generates under a memory limit smaller than the file, then shows that loading it does not."""
    write_mixtral(folder, layers)
    try:
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"file: {size / 1e6:.0f} MB; limit: {limit_mb} MB", flush=True)
        print(f"disk: {measured_disk_speed(folder / 'model.safetensors') / 1e9:.2f} GB/s")
        for options in (["--slots", str(slots)], ["--resident"]):
            command = [sys.executable, __file__, "child", str(folder), "--tokens", str(tokens)]
            _forget(folder / "model.safetensors")
            with memory_limit(limit_mb << 20) as enter:
                done = subprocess.run(
                    [*command, *options],
                    preexec_fn=enter,
                    capture_output=True,
                    text=True,
                    check=False,
                )
            print(" ".join(options), "-> exit status", done.returncode)
            print(done.stdout, done.stderr[-300:], flush=True)
    finally:
        shutil.rmtree(folder)


def child(folder: Path, slots: int, tokens: int, is_resident: bool) -> None:
    """Prints one JSON object of what one process needed and did."""
    model = load_model(folder) if is_resident else load_streaming(folder, slots=slots)
    shared = sum(one.nbytes for _, one in _flat(model))
    start = time.perf_counter()
    ids = [step.token for step in _ids(model, tokens)]
    seconds = time.perf_counter() - start
    found: dict[str, object] = {"tokens": ids, "seconds": round(seconds, 2), "shared_bytes": shared}
    if isinstance(model, StreamedModel):
        stream = model.streaming
        found |= stream.stats.as_dict() | {
            "slots": stream.slots,
            "slab_bytes": stream.budget_bytes,
            "bound_bytes": shared + stream.budget_bytes + (512 << 20),
        }
    print(json.dumps(found | {"peak_bytes": _peak_resident()}))


@contextmanager
def memory_limit(n_bytes: int) -> Iterator[object]:
    """What a child calls before it starts: it joins a memory group, or else limits its addresses.

    The second counts everything that is mapped, libraries included, so it bites earlier.
    """
    try:
        group = _memory_group(n_bytes)
    except OSError as error:
        print(f"no memory group ({error.strerror}); the address space is limited instead")
        yield lambda: resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))
        return
    try:
        yield lambda: (group / "cgroup.procs").write_text(str(os.getpid()))
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (group / name).exists():
                used = int((group / name).read_text())
                print(f"peak of the group, the file's cached pages included: {used / 1e6:.0f} MB")
    finally:
        group.rmdir()


def _memory_group(n_bytes: int) -> Path:
    """A group below this process's own, of control groups version 1 or 2."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("memory", ""):
            mount = Path("/sys/fs/cgroup", controllers)
            group = mount / path.lstrip("/") / f"expert-streaming-{os.getpid()}"
            group.mkdir()
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            try:
                (group / name).write_text(str(n_bytes))
            except OSError:
                group.rmdir()
                raise
            return group
    raise OSError(2, "no memory controller")


def write_mixtral(folder: Path, layers: int) -> None:
    """Random packed weights of the right spread, a tensor at a time."""
    folder.mkdir(parents=True)
    config = {
        "model_type": "mixtral", "hidden_size": DIM, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "intermediate_size": HIDDEN, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "max_position_embeddings": 32768, "tie_word_embeddings": False,
        "num_local_experts": EXPERTS, "num_experts_per_tok": 2,
        "quantization": {"group_size": GROUP, "bits": 4},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (VOCAB, DIM)}
    for n in range(layers):
        layer, moe = f"model.layers.{n}", f"model.layers.{n}.block_sparse_moe"
        shapes |= {
            f"{layer}.input_layernorm": (DIM,), f"{layer}.post_attention_layernorm": (DIM,),
            f"{layer}.self_attn.q_proj": (DIM, DIM), f"{layer}.self_attn.o_proj": (DIM, DIM),
            f"{layer}.self_attn.k_proj": (DIM // HEADS * KV_HEADS, DIM),
            f"{layer}.self_attn.v_proj": (DIM // HEADS * KV_HEADS, DIM),
            f"{moe}.gate": (EXPERTS, DIM),
            f"{moe}.switch_mlp.gate_proj": (EXPERTS, HIDDEN, DIM),
            f"{moe}.switch_mlp.up_proj": (EXPERTS, HIDDEN, DIM),
            f"{moe}.switch_mlp.down_proj": (EXPERTS, DIM, HIDDEN),
        }  # fmt: skip
    shapes |= {"model.norm": (DIM,), "lm_head": (VOCAB, DIM)}
    header, position = {}, 0
    parts: list[tuple[tuple[int, ...], str, float]] = []
    for path, shape in shapes.items():
        spread = shape[-1] ** -0.5
        if len(shape) == 1 or path.endswith(".gate"):
            stored = [("weight", shape, "F16", spread)]
        else:
            groups = (*shape[:-1], shape[-1] // GROUP)
            step = spread / 4.61  # of uniform numbers from 0 to 15
            stored = [
                ("weight", (*shape[:-1], shape[-1] // 8), "U32", 0.0),
                ("scales", groups, "F16", step),
                ("biases", groups, "F16", -7.5 * step),
            ]
        for part, dims, dtype, value in stored:
            size = int(np.prod(dims)) * (4 if dtype == "U32" else 2)
            header[f"{path}.{part}"] = {
                "dtype": dtype, "shape": dims, "data_offsets": [position, position + size],
            }  # fmt: skip
            position += size
            parts.append((dims, dtype, value))
    raw = json.dumps(header).encode()
    rng = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for dims, dtype, value in parts:
            file.writelines(_rows(rng, dims, dtype, value))


def _rows(
    rng: np.random.Generator, dims: tuple[int, ...], dtype: str, value: float
) -> Iterator[bytes]:
    """A tensor's bytes, an expert at a time: noise, ones, a router, or one number."""
    for _ in range(dims[0] if len(dims) == 3 else 1):
        count = int(np.prod(dims[-2:]))
        if dtype == "U32":
            yield rng.bytes(4 * count)
        elif len(dims) == 1:
            yield np.ones(count, np.float16).tobytes()
        elif dims == (EXPERTS, DIM):
            yield (rng.standard_normal(count) * value).astype(np.float16).tobytes()
        else:
            yield np.full(count, value, np.float16).tobytes()


def _ids(model: Model, n: int) -> Iterator[object]:
    prompt = [1, 500, 900, 1300]
    sampling = Sampling(temp=0.0)
    return generate_ids(model, prompt, cache=model.make_cache(), sampling=sampling, max_tokens=n)


def _route_uniformly(model: StreamedModel) -> None:
    """Each token gets two experts of a layer at random."""
    rng = np.random.default_rng(0)
    for layer in model.layers:
        moe = layer.block_sparse_moe

        def route(x: mx.array) -> tuple[mx.array, mx.array]:
            rows = [rng.permutation(EXPERTS)[:2] for _ in range(x.shape[0] * x.shape[1])]
            chosen = mx.array(np.array(rows, np.uint32)).reshape(*x.shape[:2], 2)
            return chosen, mx.full(chosen.shape, 0.5)

        moe.route = route


def _flat(model: Model) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    flat: list[tuple[str, mx.array]] = tree_flatten(model.parameters())
    return flat


def _forget(path: Path) -> None:
    """Drops what the system has cached of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _peak_resident() -> int:
    """VmHWM: the most that was resident, as the system counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
