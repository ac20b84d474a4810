"""This program beside transformers on torch, both on the CPU, for orientation.

    LD_PRELOAD=…/libopenblas.so.0 python benchmarks/torch_transformers.py --python TORCH_PYTHON

TORCH_PYTHON is the interpreter of an environment that has torch and transformers; it runs this
very file, which answers in lines of JSON. Both read the same float32 folder and run greedy, in
turn; transformers through a bare loop over its model, without what `generate` adds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMES = ("mistral-demo", "mixtral-demo", "mistral-150m", "mixtral-330m")
EXPERT_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_STACKED = re.compile(r"(.*)\.switch_mlp\.(\w+)\.weight")


class Transformers:
    """A model in another interpreter, driven as every program that is measured."""

    name = "transformers"
    held_bytes = 0
    """In this process."""

    def __init__(self, python: str, folder: Path, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self._process = subprocess.Popen(
            [python, __file__, "--serve", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fill(self, ids: Sequence[int], *, drawn: bool = False) -> None:
        if ids:
            raise ValueError("transformers is measured at the start of a text only")

    def run(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Any:
        from mlx_mistral.bench import Trial

        assert self._process.stdin
        assert self._process.stdout
        print(
            json.dumps({"prompt": list(prompts[0]), "gen_tokens": gen_tokens}),
            file=self._process.stdin,
            flush=True,
        )
        return Trial(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def as_transformers_names(folder: Path) -> None:
    """Gives each expert of a Mixtral its own tensors, as the published checkpoints have them."""
    import mlx.core as mx

    files = sorted(folder.glob("*.safetensors"))
    index: dict[str, str] = {}
    for file in files:
        renamed: dict[str, mx.array] = {}
        for name, array in mx.load(str(file)).items():  # type: ignore[union-attr]
            if found := _STACKED.fullmatch(name):
                for n in range(array.shape[0]):
                    renamed[f"{found[1]}.experts.{n}.{EXPERT_NAMES[found[2]]}.weight"] = array[n]
            else:
                renamed[name] = array
        mx.eval(renamed)
        mx.save_safetensors(str(file), renamed, {"format": "pt"})
        index.update(dict.fromkeys(renamed, file.name))
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)


def serve(folder: str) -> None:
    """Answers each request with what a `Trial` holds."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        for line in sys.stdin:
            request = json.loads(line)
            print(json.dumps(_trial(model, **request)), flush=True)


def _trial(model: Any, *, prompt: list[int], gen_tokens: int) -> dict[str, Any]:
    import torch

    began = time.perf_counter()
    said = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    tokens = [int(said.logits[0, -1].argmax())]
    first = time.perf_counter()
    for _ in range(gen_tokens):
        last = torch.tensor([tokens[-1:]])
        said = model(last, past_key_values=said.past_key_values, use_cache=True)
        tokens.append(int(said.logits[0, -1].argmax()))
    return {
        "first_seconds": first - began,
        "decode_seconds": time.perf_counter() - first if gen_tokens else 0.0,
        "peak_bytes": 0,
        "tokens": [tokens],
    }


def measure(python: str, name: str, trials: int) -> None:
    """Prints one line of the table for each test."""
    from synthetic import SHAPES, write_model

    from mlx_mistral.bench import Case, compare, run_cases
    from mlx_mistral.bench.ours import Ours

    cases = [Case(prompt_tokens=512), Case(gen_tokens=32)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_model(Path(temporary) / name, SHAPES[name])
        as_transformers_names(folder)
        ours = Ours(str(folder))
        theirs = Transformers(python, folder, SHAPES[name].vocab_size)
        try:
            found = run_cases([ours, theirs], cases, trials=trials)
        finally:
            theirs.close()
            ours.close()
        for a, b in zip(*found, strict=True):
            both = compare(a, b)
            place = both.first_difference
            same = "same" if place is None else f"same to token {place}"
            spread = f"{both.tps_min:.2f} to {both.tps_max:.2f}"
            print(f"| {name} | {both.test} | {both.tps:.2f}x | {spread} | {same} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", help="an interpreter that has torch and transformers")
    parser.add_argument("--model", action="append", choices=NAMES, help="only these models")
    parser.add_argument("--trials", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    if not args.python:
        parser.error("--python is needed: an environment that has torch and transformers")
    print("| model | test | ratio | least to most | text |")
    print("| --- | --- | ---: | ---: | --- |")
    for name in args.model or NAMES:
        measure(args.python, name, args.trials)


if __name__ == "__main__":
    main()
