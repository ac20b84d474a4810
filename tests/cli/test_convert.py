from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line

from mlx_mistral import demo
from mlx_mistral.cli import convert as command
from mlx_mistral.convert import convert_checkpoint, recipes
from mlx_mistral.convert.decide import MODES
from tests.convert.folders import contents, left_behind

KEYS = {"weight_bytes", "bits_per_weight", "tensors", "seconds", "peak_memory_bytes", "plan"}
TEXT = "A window slides over the text. Où ? 😀\n" * 6


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_names_that_the_command_line_takes_are_the_converters() -> None:
    assert command.MODES == MODES
    assert command.RECIPES == recipes.NAMES


@pytest.mark.parametrize("recipe", [name for name in recipes.NAMES if name != "measured"])
def test_every_recipe_that_is_offered_can_be_asked_for(
    recipe: str, run: Run, tiny: Path, tmp_path: Path
) -> None:
    ended = run(
        "convert", tiny, tmp_path / "out", "--recipe", recipe, "--group-size", "32", "--json"
    )
    assert ended.status == 0, ended.err
    assert ended.json["plan"]["recipe"] == recipe


@pytest.mark.parametrize("mode", command.MODES)
def test_every_mode_that_is_offered_makes_a_model_that_runs(
    mode: str, run: Run, tiny: Path, tmp_path: Path
) -> None:
    group = ["--group-size", "32"] if mode == "affine" else []
    assert run("convert", tiny, tmp_path / "out", "--mode", mode, *group).status == 0
    ended = run("generate", tmp_path / "out", "-p", "Bonjour", "--raw", "--max-tokens", "3",
                "--json")  # fmt: skip
    assert ended.status == 0, ended.err


def test_json_is_one_object_with_the_promised_keys(run: Run, tiny: Path, tmp_path: Path) -> None:
    ended = run("convert", tiny, tmp_path / "out", "--group-size", "32", "--json")
    told = ended.json
    assert (ended.status, ended.err) == (0, "")
    assert set(told) >= KEYS
    files = contents(tmp_path / "out")
    index = json.loads(files["model.safetensors.index.json"])
    assert told["weight_bytes"] == index["metadata"]["total_size"]
    assert told["tensors"] == len(index["weight_map"])
    assert sum(told["bytes_by_kind"].values()) == told["weight_bytes"]
    assert told["plan"]["quantization"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert told["plan"] == json.loads(files["conversion.json"])["plan"]
    assert told["dest"] == str(tmp_path / "out")
    assert told["report"] is None
    about = run("info", tmp_path / "out", "--json").json
    assert told["bits_per_weight"] == pytest.approx(about["bits_per_weight"], abs=0.01)
    assert told["weight_bytes"] == about["weight_bytes"]
    assert told["peak_memory_bytes"] > 10**7
    assert told["seconds"] > 0


def test_without_it_a_table_tells_sizes_and_where_the_bits_went(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    ended = run("convert", tiny, tmp_path / "out", "--group-size", "32", "--recipe", "mixed_3_6")
    assert ended.err == ""
    rows = {line.split("  ")[1]: line for line in ended.out.splitlines() if line.startswith("  ")}
    assert ended.out.splitlines()[0] == f"{tiny} -> {tmp_path / 'out'}"
    assert rows["recipe"].split()[-1] == "mixed_3_6"
    for label in ("size", "bits a weight"):
        assert " -> " in rows[label]
    assert "32.00 -> " in rows["bits a weight"]
    table = ended.out.split("where the bits went\n")[1].splitlines()
    kinds = {line.split()[0]: line for line in table}
    assert {"embed_tokens", "lm_head", "v_proj", "down_proj", "other"} <= set(kinds)
    assert kinds["lm_head"].endswith("6 bits")
    assert kinds["q_proj"].endswith("3 bits")
    sizes = [float(line.split()[1]) for line in table]
    assert sizes == sorted(sizes, reverse=True)


def test_report_compares_the_result_with_the_source(
    run: Run, tiny: Path, file: Path, tmp_path: Path
) -> None:
    """With the figures that eval has for the same text."""
    ended = run("convert", tiny, tmp_path / "out", "--group-size", "32", "--bits", "3",
                "--report", file, "--json")  # fmt: skip
    assert (ended.status, ended.err) == (0, "")
    report = ended.json["report"]
    assert report["kl"] > 0
    assert 0 <= report["top1_agreement"] <= 1
    before = run("eval", tiny, "-f", file, "--json").json
    assert report["tokens"] == before["tokens"]
    assert report["perplexity_before"] == pytest.approx(before["perplexity"], rel=0.05)
    plain = run("convert", tiny, tmp_path / "plain", "--bits", "16", "--dtype", "float32",
                "--report", file, "--json").json["report"]  # fmt: skip
    assert plain["kl"] == pytest.approx(0, abs=1e-6)
    assert plain["perplexity"] == pytest.approx(plain["perplexity_before"])
    assert plain["top1_agreement"] == 1


def test_report_is_a_table_too(run: Run, tiny: Path, file: Path, tmp_path: Path) -> None:
    ended = run("convert", tiny, tmp_path / "out", "--group-size", "32", "--report", file)
    assert ended.status == 0
    for label in ("perplexity", "KL divergence", "same top token"):
        assert label in ended.out


def test_report_without_a_text_is_told_and_not_missed(run: Run, tiny: Path, tmp_path: Path) -> None:
    ended = run("convert", tiny, tmp_path / "out", "--group-size", "32", "--report")
    assert ended.status == 0
    assert ended.err.splitlines() == [
        "--report has no text, so nothing is compared; give one: --report FILE"
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ["--report", "missing.txt"],
        ["--report", "empty.txt"],
        ["--recipe", "measured"],
        ["--recipe", "measured", "--calibration", "missing.txt"],
        ["--recipe", "measured", "--calibration", "empty.txt"],
        ["--bits", "7"],
        ["--bits", "4.5"],
        ["--group-size", "128"],
        ["--mode", "mxfp4", "--bits", "8"],
        ["--recipe", "mixed_3_6", "--bits", "4"],
        ["--mode", "bf16", "--dtype", "float16"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_one_line_before_anything_is_written(
    flags: list[str], run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    assert failed_in_one_line(run("convert", tiny, "out", *flags))
    assert os.listdir(tmp_path) == ["empty.txt"]


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["only-source"],
        ["a", "b", "--mode", "q4_k_m"],
        ["a", "b", "--recipe", "best"],
        ["a", "b", "--group-size", "48"],
        ["a", "b", "--bits", "four"],
        ["a", "b", "--bits", "-4"],
        ["a", "b", "--fit", "much"],
        ["a", "b", "--over"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_status_two(line: list[str], run: Run) -> None:
    assert run("convert", *line).status == 2


def test_a_model_in_dest_is_replaced_only_with_overwrite(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    line = ("convert", tiny, tmp_path / "out", "--group-size", "32")
    assert run(*line).status == 0
    before = contents(tmp_path / "out")
    refused = run(*line, "--bits", "8")
    assert failed_in_one_line(refused)
    assert "--overwrite" in refused.err
    assert contents(tmp_path / "out") == before
    assert run(*line, "--bits", "8", "--overwrite").status == 0
    assert contents(tmp_path / "out")["model.safetensors"] != before["model.safetensors"]
    assert left_behind(tmp_path / "out") == []


def interrupt_at(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the bar is drawn for the n-th time; small shards."""
    small = functools.partial(convert_checkpoint, shard_bytes=8_000)
    monkeypatch.setattr("mlx_mistral.convert.convert_checkpoint", small)
    calls = iter(range(n))

    def update(*_: object) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.ProgressBar, "update", update)


def test_an_interrupted_conversion_ends_with_130_and_the_next_one_goes_on(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("convert", tiny, tmp_path / "out", "--group-size", "32")
    interrupt_at(8, monkeypatch)
    ended = run(*line)
    assert (ended.status, ended.out, ended.err) == (130, "", "")
    assert not (tmp_path / "out").exists()
    interrupt_at(10**9, monkeypatch)
    ended = run(*line)
    assert ended.status == 0
    assert ended.err.startswith("an earlier run was stopped; ")
    assert ended.err.endswith(" files of it are kept\n")
    assert left_behind(tmp_path / "out") == []


@pytest.mark.parametrize("quiet", [False, True])
def test_the_bar_is_drawn_for_people_and_not_with_quiet(
    quiet: bool, run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    line = ("convert", tiny, tmp_path / "out", "--group-size", "32")
    ended = run(*line, *(["--quiet"] if quiet else []))
    assert ended.status == 0
    assert ("100%" in ended.err) == (not quiet)
    assert ("lm_head" in ended.err) == (not quiet)
    if quiet:
        assert ended.err == ""
    else:
        assert ended.err.endswith("\r\x1b[K")


@pytest.mark.parametrize(
    "dest",
    ["out/", "./out", "../here/out", "a b", "é😀", "-out", "deep/er/out", "out.v1", ".hidden",
     "ends.safetensors"],
)  # fmt: skip
def test_names_of_every_kind_are_folders_like_others(
    dest: str, run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    source = os.path.relpath(tiny)
    ended = run("convert", "--group-size", "32", "--json", "--", source, dest)
    assert (ended.status, ended.err) == (0, "")
    assert Path(ended.json["dest"]) == Path(os.path.abspath(dest))
    assert run("info", "--", os.path.abspath(dest)).status == 0
    made = Path(os.path.abspath(dest))
    assert left_behind(made) == []


def test_a_result_inside_the_folder_of_its_source_leaves_the_source_readable(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for path in tiny.iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    for _ in range(2):
        line = ("convert", source, source / "4bit", "--group-size", "32", "--overwrite")
        assert run(*line).status == 0
        assert run("info", source).status == 0
        assert run("info", source / "4bit").status == 0


def test_an_alias_is_a_source_like_a_folder(run: Run, tmp_path: Path) -> None:
    """The demo model is what it is in its folder."""
    by_name = run("convert", "demo", tmp_path / "a", "--bits", "4", "--group-size", "32")
    by_path = run("convert", demo.model_path(), tmp_path / "b", "--group-size", "32")
    assert by_name.status == by_path.status
    if by_name.status == 0:
        assert contents(tmp_path / "a") == contents(tmp_path / "b")
    else:
        assert failed_in_one_line(by_name)
        assert by_name.err == by_path.err
