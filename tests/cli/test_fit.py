from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from command_line import Run, failed_in_one_line
from mlx.utils import tree_flatten

from mlx_mistral import load_model, load_tokenizer
from mlx_mistral.cli.fit_text import bar
from mlx_mistral.memory import MemoryPlan, mac
from tests.memory.paper import HF_7B, on_paper

RECORDINGS = Path(__file__).parents[1] / "recordings"
KEYS = {
    "weights_bytes", "cache_bytes", "workspace_bytes", "total_bytes", "budget_bytes", "fits",
    "max_context", "advice",
}  # fmt: skip

SPEED_KEYS = ("chip", "expected_tps", "expected_tps_at_context", "bytes_per_token")


def copy_with(source: Path, folder: Path, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "config.json"
    kept = {k: v for k, v in (json.loads(path.read_text()) | config).items() if v != "gone"}
    path.write_text(json.dumps(kept))
    return folder


def test_json_has_the_promised_keys_and_they_add_up(run: Run, tiny: Path) -> None:
    ended = run("fit", tiny, "--json")
    assert (ended.status, ended.err) == (0, "")
    told = ended.json
    assert set(told) >= KEYS
    vocab = load_tokenizer(tiny).vocab_size
    matrices = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)
    assert told["weights_bytes"] == 4 * (2 * vocab * 32 + matrices + 5 * 32)
    assert told["cache_bytes"] == 2 * 2 * 2 * 8 * 16 * 4
    parts = (told[key] for key in ("weights_bytes", "cache_bytes", "workspace_bytes"))
    assert told["total_bytes"] == sum(parts)
    assert told["fits"] == (told["total_bytes"] <= told["budget_bytes"])
    assert (told["context"], told["max_context"], told["advice"]) == (4096, 4096, [])


def test_activations_of_half_the_size_need_half_the_memory_for_weights(
    run: Run, tiny: Path
) -> None:
    whole, half = (
        run("fit", tiny, "--json", "--dtype", dtype).json for dtype in ("float32", "bfloat16")
    )
    for key in ("weights_bytes", "cache_bytes"):
        assert whole[key] == 2 * half[key]


def test_the_longest_context_that_is_told_fits_and_one_more_does_not(run: Run, tiny: Path) -> None:
    model = ("fit", tiny, "--json")
    budget = run(*model, "--context", "300").json["total_bytes"]
    longest = run(*model, "--memory", str(budget), "--context", "4096").json["max_context"]
    assert longest >= 300
    for context, fits in ((longest, True), (longest + 1, False)):
        told = run(*model, "--memory", str(budget), "--context", str(context)).json
        assert (told["fits"], told["budget_bytes"]) == (fits, budget)


def test_what_does_not_fit_is_a_report_with_what_would(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    folder = copy_with(tiny, tmp_path / "a model", sliding_window=None)
    model = ("fit", folder, "--context", "4000")
    shorter = run("fit", folder, "--context", "1000", "--json").json["total_bytes"]
    ended = run(*model, "--memory", str(shorter))
    assert (ended.status, ended.err) == (0, "")
    assert "fits        no" in ended.out
    told = run(*model, "--memory", str(shorter), "--json").json
    assert not told["fits"]
    assert any(f"--context {told['max_context']}" in line for line in told["advice"])
    again = run(*model[:2], "--context", str(told["max_context"]), "--memory", str(shorter))
    assert "fits        yes" in again.out


@pytest.mark.parametrize("share", [0.75, 0.42, 0.36, 0.33])
def test_the_conversion_that_is_advised_can_be_copied_fits_and_is_the_best(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """The demo's weights are most of what it needs."""
    monkeypatch.chdir(tmp_path)
    needs = run("fit", "--context", "64", "--json").json
    others = needs["total_bytes"] - needs["weights_bytes"]
    room = ("--memory", str(others + round(share * needs["weights_bytes"])), "--context", "64")
    advice = run("fit", "demo", *room, "--json").json["advice"]
    line = next(line for line in advice if line.startswith("fewer bits fit: "))
    program, *command = shlex.split(line.removeprefix("fewer bits fit: "))
    assert (program, command[0]) == ("mlx-mistral", "convert")
    made = run(*command, "--json")
    assert made.status == 0, made.err
    assert run("fit", command[2], *room, "--json").json["fits"]
    best = run("convert", "demo", "best", "--fit", room[1], "--context", "64", "--json").json
    assert made.json["weight_bytes"] == best["weight_bytes"]


def test_bits_are_not_advised_where_none_are_few_enough(run: Run, tiny: Path) -> None:
    told = run("fit", tiny, "--memory", "10kB", "--json").json
    assert told["max_context"] == 0
    assert not any("--bits" in line for line in told["advice"])
    assert "not even one token fits" in run("fit", tiny, "--memory", "10kB").out


def test_a_quantized_model_is_counted_as_packed_and_sent_back_to_its_original(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    folder = copy_with(tiny, tmp_path / "packed", quantization={"group_size": 32, "bits": 4})
    model = load_model(tiny, dtype="float32")
    nn.quantize(model, group_size=32, bits=4, class_predicate=in_groups_of_32)
    arrays = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    told = run("fit", folder, "--memory", "1kB", "--json").json
    assert told["weights_bytes"] == sum(array.nbytes for array in arrays.values())
    assert any("from the original weights" in line for line in told["advice"])


def in_groups_of_32(_: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


def test_the_text_tells_the_sum_and_where_context_and_budget_come_from(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    ended = run("fit", tiny)
    assert (ended.status, ended.err) == (0, "")
    for part in ("weights", "cache", "workspace", "total", "budget", "fits        yes"):
        assert part in ended.out
    assert "4,096 tokens of context (the model's own)" in ended.out
    assert "windows bound it: 16 tokens at most" in ended.out
    silent = copy_with(
        tiny, tmp_path / "silent", max_position_embeddings="gone", sliding_window=None
    )
    ended = run("fit", silent)
    assert "32,768 tokens of context (the model does not say)" in ended.out
    assert "no window bounds it" in ended.out
    long = copy_with(tiny, tmp_path / "long", max_position_embeddings=1024000)
    assert "32,768 tokens of context (of 1,024,000)" in run("fit", long).out
    assert "--memory" in run("fit", tiny, "--memory", "1GB").out


@pytest.mark.parametrize("folder", sorted(path.parent for path in RECORDINGS.glob("*/*.json")))
def test_every_family_and_layout_is_planned_for(run: Run, folder: Path) -> None:
    ended = run("fit", folder, "--memory", "16GB", "--json", "--context", "64")
    assert (ended.status, ended.err) == (0, "")
    assert ended.json["fits"]
    model = load_model(folder, dtype="float32")
    held = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    assert ended.json["weights_bytes"] == held


def test_weights_are_not_read(run: Run, tiny: Path, tmp_path: Path) -> None:
    folder = copy_with(tiny, tmp_path / "model")
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start:] = b"\xff" * (len(data) - start)
    weights.write_bytes(data)
    expected = run("fit", tiny, "--memory", "1GB", "--json").json
    told = run("fit", folder, "--memory", "1GB", "--json").json
    assert told | {"model": ""} == expected | {"model": ""}


def test_what_cannot_be_planned_is_one_line(run: Run, tiny: Path, tmp_path: Path) -> None:
    assert failed_in_one_line(run("fit", tmp_path / "nothing here"))
    assert failed_in_one_line(run("fit", tiny, "--context", "4097"))
    folder = copy_with(tiny, tmp_path / "model", surprise=1)
    assert failed_in_one_line(run("fit", folder))
    for wrong in (["--memory", "lots"], ["--context", "0"], ["--dtype", "int8"]):
        assert run("fit", tiny, *wrong).status == 2


def test_another_machine_is_told_the_speed_to_expect_and_where_it_comes_from(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = on_paper(HF_7B, 4)
    monkeypatch.setattr("mlx_mistral.checkpoint.hub_headers.read_model", lambda _: headers)
    command = ("fit", "any/model", "--chip", "M2 Max", "--memory", "24GB", "--context", "8192")
    told = run(*command, "--json").json
    assert (told["chip"], told["dtype"]) == ("M2 Max", "bfloat16")
    assert told["bytes_per_token_at_context"] == told["bytes_per_token"] + told["cache_bytes"]
    rate = 400e9 * told["bandwidth_share"]
    assert told["expected_tps"] == pytest.approx(rate / told["bytes_per_token"])
    assert told["expected_tps_at_context"] == pytest.approx(
        rate / told["bytes_per_token_at_context"]
    )
    text = run(*command).out
    for part in (
        f"speed       about {told['expected_tps']:.0f} tokens a second to be expected, "
        f"{told['expected_tps_at_context']:.0f} at 8,192 tokens",
        "= M2 Max with 30 GPU cores, 400 GB/s, 72% of it reached in published runs,",
        "/ 4.00 GB of weights read a token, and up to 1.07 GB of cache",
    ):
        assert part in text
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.parametrize(
    ("weights", "cache", "workspace", "budget", "expected"),
    [
        (10, 20, 0, 40, "[" + "#" * 10 + "=" * 20 + "." * 10 + "|"),
        (20, 10, 10, 40, "[" + "#" * 20 + "=" * 10 + "-" * 10 + "|"),
        (60, 10, 10, 20, "[" + "#" * 10 + "|" + "#" * 20 + "=" * 5 + "-" * 5),
        (1, 1, 1, 1000, "[" + "." * 40 + "|"),
        (10**15, 0, 0, 1, "[|" + "#" * 40),
    ],
)
def test_the_bar_shows_the_parts_and_where_the_budget_ends(
    weights: int, cache: int, workspace: int, budget: int, expected: str
) -> None:
    plan = MemoryPlan(
        context=1,
        weights_bytes=weights,
        cache_bytes=cache,
        workspace_bytes=workspace,
        budget_bytes=budget,
    )
    assert bar(plan) == expected


@pytest.mark.parametrize(
    ("name", "chip"),
    [
        ("M5 Ultra", "M5 Ultra with 80 GPU cores, 1200 GB/s"),
        ("M5 Max 32-core", "M5 Max with 32 GPU cores, 460 GB/s"),
        ("M5 Max 40-core", "M5 Max with 40 GPU cores, 614 GB/s"),
        ("Apple M5 Pro", "M5 Pro with 16 GPU cores, 307 GB/s"),
    ],
)
def test_chips_of_2026_are_planned_for(
    name: str, chip: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = on_paper(HF_7B, 4)
    monkeypatch.setattr("mlx_mistral.checkpoint.hub_headers.read_model", lambda _: headers)
    assert f"= {chip}," in run("fit", "any/model", "--chip", name, "--memory", "24GB").out


@pytest.mark.parametrize(("gpu_cores", "bandwidth"), [(None, 410e9), (40, 546e9)])
def test_a_mac_is_asked_for_its_gpu_cores(
    gpu_cores: int | None, bandwidth: float, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = on_paper(HF_7B, 4)
    variables = {mac.BRAND: "Apple M4 Max"}
    monkeypatch.setattr("mlx_mistral.checkpoint.hub_headers.read_model", lambda _: headers)
    monkeypatch.setattr("mlx_mistral.memory.device.on_gpu", lambda: True)
    monkeypatch.setattr(mac, "is_mac", lambda: True)
    monkeypatch.setattr(mac, "sysctl", lambda *_: variables)
    monkeypatch.setattr(mac, "gpu_cores", lambda: gpu_cores)
    plan = run("fit", "any/model", "--memory", "24GB", "--json").json
    rate = bandwidth * plan["bandwidth_share"]
    assert plan["expected_tps"] == pytest.approx(rate / plan["bytes_per_token"])


def test_no_speed_is_told_where_nothing_honest_can_be_said(run: Run, tiny: Path) -> None:
    here = run("fit", tiny, "--json").json
    assert [here[key] for key in SPEED_KEYS] == [None] * len(SPEED_KEYS)
    assert "no expectation for this machine" in run("fit", tiny).out
    small = ("fit", tiny, "--chip", "M1", "--memory", "8GB")
    assert run(*small, "--json").json["expected_tps"] is None
    assert "no expectation: so small a model" in run(*small).out
    assert failed_in_one_line(run("fit", tiny, "--chip", "M1"))
    assert failed_in_one_line(run("fit", tiny, "--chip", "Z80", "--memory", "64kB"))


@pytest.mark.parametrize("prompt", ["Bonjour", "Bonjour " * 700])
def test_the_demo_stays_inside_what_it_is_promised(run: Run, prompt: str) -> None:
    command = [sys.executable, "-m", "mlx_mistral", "generate", "demo", "-f", "-", "--json"]
    done = subprocess.run(
        [*command, "--max-tokens", "40"], input=prompt, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    context = used["prompt_tokens"] + used["generation_tokens"]
    told = run("fit", "--context", str(context), "--json").json
    assert used["peak_memory_bytes"] <= told["total_bytes"]


def test_what_runs_in_smaller_steps_or_from_disk_is_said(run: Run) -> None:
    short = run("fit", "demo", "--memory", "15MB", "--json").json
    assert not short["fits"]
    assert "smaller steps" in short["advice"][0]
    assert set(short["max_context_by_kv_bits"]) == {"16", "8", "4"}
    assert short["max_context_by_kv_bits"]["16"] == short["max_context"]
    streamed = run("fit", "demo", "--memory", "9MB", "--json").json
    assert "experts in memory, the others from disk: slowly" in streamed["advice"][0]
    refused = run("fit", "demo", "--memory", "1MB", "--json").json
    assert not [line for line in refused["advice"] if "it runs" in line]
