"""`bench`: its card, its table, and what it refuses."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest
from command_line import Run, failed_in_one_line

from mlx_mistral import tuning
from mlx_mistral.bench import bandwidth, chunks, sweep
from mlx_mistral.cli.bench import counts
from mlx_mistral.memory import Chip, find_chip, mac

KEYS = {
    "test", "prompt_tokens", "gen_tokens", "depth", "batch", "tps", "tps_stdev", "ttft_ms",
    "peak_memory_bytes", "bytes_per_token", "bandwidth_fraction",
}  # fmt: skip
QUICK = ("-n", "2", "--pause", "0")


@pytest.fixture(autouse=True)
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "COPIED_BYTES", 1 << 16)
    monkeypatch.setattr(bandwidth, "MATRIX", 32)


def test_the_card_has_the_promised_keys(run: Run, tiny: Path, tmp_path: Path) -> None:
    plot = tmp_path / "speed.svg"
    card = run(
        "bench", tiny, "-p", "8,16", "-g", "4", "--depth", "0,20", *QUICK, "--plot", plot, "--json"
    ).json
    tests = [result["test"] for result in card["results"]]
    assert tests == ["pp8", "pp16", "tg4", "pp8 @ d20", "pp16 @ d20", "tg4 @ d20"]
    for result in card["results"]:
        assert set(result) >= KEYS
        assert len(result["tps_trials"]) == 2
        assert result["tps"] > 0
        assert result["bandwidth_fraction"] > 0
    assert {"machine", "versions", "model"} <= set(card)
    assert "against" not in card
    assert card["model"]["sliding_window"] == 16
    assert card["machine"]["bandwidth_source"].startswith(("measured", "nominal"))
    assert plot.read_text().startswith("<svg")


def test_the_table_has_a_row_for_each_test(run: Run, tiny: Path) -> None:
    ended = run("bench", tiny, "-p", "8", "-g", "4", "--batch", "1,2", *QUICK)
    table = [line for line in ended.out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["pp8", "tg4", "pp8 b2", "tg4 b2"]
    assert len({len(line) for line in table}) == 1
    assert set(table[1]) <= set("|:-")
    assert ended.err == ""


def test_the_gpu_cores_of_a_mac_are_shown_and_choose_its_bandwidth(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def this_chip(*, gpu_cores: int | None = None) -> Chip:
        return find_chip("M5 Max", gpu_cores=gpu_cores)

    monkeypatch.setattr(mac, "gpu_cores", lambda: 40)
    monkeypatch.setattr(bandwidth, "this_chip", this_chip)
    command = ("bench", tiny, "-p", "8", "-g", "0", "-n", "1", "--pause", "0")
    machine = run(*command, "--json").json["machine"]
    assert (machine["gpu_cores"], machine["bandwidth"]) == (40, 614e9)
    line = next(line for line in run(*command).out.splitlines() if line.startswith("machine"))
    assert f"{machine['chip']}, 40 GPU cores, {machine['backend']}, {machine['os_version']}" in line


def test_another_folder_runs_in_turn_and_what_it_writes_is_compared(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    twin = tmp_path / "twin"
    twin.mkdir()
    for file in tiny.iterdir():
        (twin / file.name).write_bytes(file.read_bytes())
    card = run("bench", tiny, "-p", "8", "-g", "4", *QUICK, "--against", twin, "--json").json
    assert card["against"]["name"] == str(twin)
    assert [set(result) >= KEYS for result in card["against"]["results"]] == [True, True]
    assert [ratio["test"] for ratio in card["ratios"]] == ["pp8", "tg4"]
    for ratio in card["ratios"]:
        assert ratio["same_output"] is True
        assert ratio["tps_min"] <= ratio["tps"] <= ratio["tps_max"]


def test_ratios_have_a_table_and_a_difference_is_said(run: Run, tiny: Path) -> None:
    ended = run("bench", tiny, "-p", "0", "-g", "4", *QUICK, "--against", "demo")
    assert ended.status == 0
    assert "| ours/theirs |" in ended.out
    assert "the outputs differ from token" in ended.err


def test_a_sweep_ends_with_the_best_settings(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def fake(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
        commands.append(command)
        tps = 2.0 if "MLX_MAX_MB_PER_BUFFER" in env else 1.0
        out = f'{{"results": [{{"test": "tg4", "tps": {tps}}}]}}'
        return SimpleNamespace(stdout=out, stderr="", returncode=0)

    monkeypatch.setattr(sweep.subprocess, "run", fake)
    ended = run("bench", tiny, "-p", "0", "-g", "4", *QUICK, "--sweep")
    assert ended.out.splitlines()[-1].startswith("tg4: MLX_MAX_MB_PER_BUFFER=")
    assert commands[0][4] == str(tiny)
    assert commands[0][-2:] == ["--json", "--quiet"]


def test_a_sweep_tries_sizes_of_chunks_and_keeps_the_best(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = SimpleNamespace(stdout='{"results": [{"test": "pp8", "tps": 1}]}', stderr="")
    monkeypatch.setattr(sweep.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(chunks, "PROMPT_TOKENS", 200)
    monkeypatch.setattr(chunks, "best_chunk", lambda tried, usual: tried[0])
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path / "home"))
    found = run("bench", tiny, "-p", "8", *QUICK, "--sweep", "--json").json
    assert [one["tokens"] for one in found["chunks"]] == [128, 512]
    assert all(one["tps"] > 0 for one in found["chunks"])
    assert found["best_chunk"] == 128
    assert list(tuning.read().values()) == [128]
    said = run("bench", tiny, "-p", "8", *QUICK, "--sweep")
    assert "chunks: 128 tokens" in said.out
    assert str(tuning.path()) in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--against", "mlx-lm"),
        ("demo", "--against", "no/such/folder"),
        ("demo", "--depth", "40k"),
        ("demo", "-p", "0", "-g", "0"),
        ("demo", "-g", "0", "--depth", "64", "--batch", "2"),
        ("demo", "--plot", "speed.pdf"),
        ("demo", "--memory", "2MB"),
        ("demo", "--speculate", "--batch", "2"),
        ("demo", "--sweep", "--against", "mlx-lm"),
        ("./no/such/folder",),
    ],
    ids=" ".join,
)
def test_what_cannot_be_measured_is_said_in_one_line(run: Run, arguments: tuple[str, ...]) -> None:
    assert failed_in_one_line(run("bench", *arguments))


@pytest.mark.parametrize(
    "tests",
    [
        ("-p", "300", "-g", "0"),
        ("-p", "0", "-g", "4", "--depth", "600"),
        ("-p", "0", "-g", "4", "--depth", "300", "--batch", "4"),
        ("-p", "8", "-g", "0", "--against", "TINY"),
    ],
    ids=" ".join,
)
def test_what_a_budget_does_not_hold_is_refused_with_one_that_does(
    run: Run, tiny: Path, tests: tuple[str, ...]
) -> None:
    tests = tuple(str(tiny) if word == "TINY" else word for word in tests)
    command = ("bench", tiny, *tests, "-n", "1", "--pause", "0", "--quiet", "--json")
    refused = run(*command, "--memory", "100kB")
    assert failed_in_one_line(refused)
    assert "(weights " in refused.err
    asked = int(refused.err.rpartition("--memory ")[2])
    gc.collect()
    taken = mx.get_active_memory()  # by tests before this one
    enough = run(*command, "--memory", str(taken + asked))
    assert (enough.status, enough.err) == (0, "")
    peaks = [result["peak_memory_bytes"] for result in enough.json["results"]]
    assert max(peaks) <= taken + asked
    assert failed_in_one_line(run(*command, "--memory", str(asked - 1)))


@pytest.mark.parametrize("flags", [("-p", "x"), ("-n", "0"), ("--batch", "0"), ("--pause", "-1")])
def test_a_number_that_is_none_is_wrong_usage(run: Run, flags: tuple[str, str]) -> None:
    ended = run("bench", *flags)
    assert (ended.status, ended.out) == (2, "")


def test_lists_are_separated_by_commas_and_k_is_1024() -> None:
    assert counts(0)("0,1k, 4K,4096,512") == [0, 1024, 4096, 512]
    for wrong in ("", "1,", "-1", "1.5", "4kb", "١", "9999999k"):
        with pytest.raises(argparse.ArgumentTypeError):
            counts(0)(wrong)
