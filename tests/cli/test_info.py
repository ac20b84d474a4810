from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line

from mlx_mistral import load_tokenizer

RECORDINGS = Path(__file__).parents[1] / "recordings"
KEYS = {
    "family", "parameters", "active_parameters", "weight_bytes", "bits_per_weight",
    "kv_bytes_per_token", "kv_compression", "sliding_window", "receptive_field",
    "flops_per_token", "context", "tokenizer", "config",
}  # fmt: skip


def test_json_has_the_promised_keys_and_the_figures_follow_from_the_shape(
    run: Run, tiny: Path
) -> None:
    vocab = load_tokenizer(tiny).vocab_size
    matrices = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48)
    told = run("info", tiny, "--json").json
    assert set(told) >= KEYS
    assert told["family"] == "mistral"
    assert told["parameters"] == 2 * vocab * 32 + matrices + 5 * 32
    assert told["active_parameters"] == told["parameters"]
    assert told["weight_bytes"] == 4 * told["parameters"]
    assert told["bits_per_weight"] == 32
    assert told["kv_bytes_per_token"] == 2 * 2 * 2 * 8 * 2
    assert told["kv_compression"] == 2
    assert (told["sliding_window"], told["receptive_field"]) == (16, 32)
    assert told["flops_per_token"] == 2 * (vocab * 32 + matrices)
    assert told["context"] == 4096
    assert told["tokenizer"] == "v3"
    assert told["config"]["n_layers"] == 2


def test_the_text_says_what_the_figures_mean(run: Run, tiny: Path) -> None:
    ended = run("info", tiny)
    assert (ended.status, ended.err) == (0, "")
    assert "the cache is 2 times smaller" in ended.out
    assert "2 layers x 16 = 32 tokens of reach" in ended.out
    assert "the window bounds it at 2.05 kB" in ended.out
    assert "[INST]" in ended.out


@pytest.mark.parametrize("folder", sorted(path.parent for path in RECORDINGS.glob("*/*.json")))
def test_every_family_and_layout_is_explained(run: Run, folder: Path) -> None:
    for flags in ([], ["--json"]):
        ended = run("info", folder, "--quiet", *flags)
        assert (ended.status, ended.err) == (0, "")
    assert ended.json["parameters"] >= ended.json["active_parameters"] > 0
    assert ended.json["tokenizer"] is None


def test_both_layouts_of_the_same_weights_tell_the_same(run: Run) -> None:
    official, converted = (
        run("info", RECORDINGS / name, "--json").json for name in ("mixtral-official", "mixtral")
    )
    for key in KEYS - {"config", "context"}:
        assert official[key] == converted[key], key
    assert official["active_parameters"] < official["parameters"]


def test_weights_are_not_read(run: Run, tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start:] = b"\xff" * (len(data) - start)  # NaN everywhere
    weights.write_bytes(data)
    assert run("info", tmp_path, "--json").json == run("info", tiny, "--json").json


def test_a_damaged_folder_is_one_line(run: Run, tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert failed_in_one_line(run("info", tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "surprise\x1b[2J": 1}))
    ended = run("info", tmp_path)
    assert failed_in_one_line(ended)
    assert "\x1b" not in ended.err


def test_files_that_do_not_hold_what_the_configuration_says_are_remarked_on(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 50}))
    ended = run("info", tmp_path)
    assert ended.status == 0
    assert "the files hold" in ended.err
