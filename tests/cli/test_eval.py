from __future__ import annotations

import json
import math
from pathlib import Path

import mistral_common
import pytest
from command_line import Run, failed_in_one_line

from mlx_mistral import load
from mlx_mistral.cli import prompt
from mlx_mistral.evaluation import evaluate

KEYS = {"tokens", "perplexity", "kl", "top1_agreement"}
TEXT = "A window slides over the text. Où ? 😀\n" * 6


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_json_is_one_object_with_the_figures_of_the_library(
    run: Run, tiny: Path, file: Path
) -> None:
    ended = run("eval", tiny, "-f", file, "--reference", "demo", "--context", "32", "--json")
    told = ended.json
    assert (ended.status, ended.err) == (0, "")
    assert set(told) >= KEYS
    model, tokenizer = load(tiny)
    ids = tokenizer.encode(TEXT)
    found = evaluate(
        model, ids, bos_id=tokenizer.bos_id, context=32, stride=16, reference=load("demo")[0]
    )
    assert told["tokens"] == len(ids)
    assert (told["context"], told["stride"]) == (32, 16)
    assert told["method"] == "sliding: blocks of 32 tokens, 16 new in each"
    assert told["perplexity"] == pytest.approx(found.perplexity)
    assert told["perplexity_error"] == pytest.approx(found.perplexity_error)
    assert told["kl"] == pytest.approx(found.kl)
    assert told["top1_agreement"] == pytest.approx(found.top1_agreement)
    bits = len(ids) * math.log2(found.perplexity)
    assert told["bits_per_byte"] == pytest.approx(bits / len(TEXT.encode()))
    assert told["seconds"] > 0


def test_without_a_reference_there_is_no_distance(run: Run, tiny: Path, file: Path) -> None:
    told = run("eval", tiny, "-f", file, "--json").json
    assert told["kl"] is told["top1_agreement"] is None
    assert (told["context"], told["stride"]) == (2048, 1024)
    assert told["method"].startswith("one block of")


def test_the_lines_say_what_the_json_says(run: Run, tiny: Path, file: Path) -> None:
    flags = ("-f", file, "--reference", tiny, "--context", "16", "--stride", "16")
    ended = run("eval", tiny, *flags)
    told = run("eval", tiny, *flags, "--json").json
    rows = dict(line.split("  ", 1) for line in ended.out.splitlines())
    rows = {label: value.strip() for label, value in rows.items()}
    assert rows["tokens"] == f"{told['tokens']}"
    assert rows["method"] == "blocked: blocks of 16 tokens without overlap"
    value, error = rows["perplexity"].replace(",", "").split(" ± ")
    assert float(value) == pytest.approx(told["perplexity"], rel=1e-2)
    assert float(error) == pytest.approx(told["perplexity_error"], rel=0.1)
    assert rows["KL divergence"] == "0 nats a token"
    assert rows["top-1 agreement"] == "100.00%"
    assert "tokens/s" in ended.err
    assert run("eval", tiny, *flags, "--quiet").err == ""


def test_the_text_may_come_from_stdin(run: Run, tiny: Path, file: Path) -> None:
    def figures(*flags: str | Path, stdin: bytes = b"") -> tuple[int, float]:
        told = run("eval", tiny, *flags, "--json", stdin=stdin).json
        return told["tokens"], told["perplexity"]

    assert figures(stdin=TEXT.encode()) == figures("-f", file) == figures("-p", TEXT)


def test_a_limit_takes_the_first_tokens_and_their_bytes(run: Run, tiny: Path) -> None:
    words = "one two three four five six seven eight"
    _, tokenizer = load(tiny)
    n = len(tokenizer.encode("one two three four"))
    limited = run("eval", tiny, "-p", words, "--limit", str(n), "--json").json
    whole = run("eval", tiny, "-p", "one two three four", "--json").json
    for key in ("tokens", "bytes", "perplexity"):
        assert limited[key] == whole[key]
    more = run("eval", tiny, "-p", words, "--limit", "100000", "--json").json
    assert more["bytes"] == len(words)


def test_the_dtype_reaches_both_models(run: Run, tiny: Path, file: Path) -> None:
    told = run("eval", tiny, "-f", file, "--reference", tiny, "--dtype", "float16", "--json").json
    exact = run("eval", tiny, "-f", file, "--dtype", "float32", "--json").json
    assert told["kl"] == 0
    assert told["perplexity"] != exact["perplexity"]
    assert told["perplexity"] == pytest.approx(exact["perplexity"], rel=0.1)


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00H", b"a\x00b"])
def test_what_is_no_text_is_refused(run: Run, tiny: Path, text: bytes) -> None:
    assert failed_in_one_line(run("eval", tiny, stdin=text))


def test_one_token_is_too_little(run: Run, tiny: Path) -> None:
    _, tokenizer = load(tiny)
    assert len(tokenizer.encode("a")) == 1
    for flags in (("-p", "a"), ("-p", TEXT, "--limit", "1")):
        ended = run("eval", tiny, *flags)
        assert failed_in_one_line(ended)
        assert "two tokens" in ended.err


def test_a_file_that_cannot_be_read_is_named(
    run: Run, tiny: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (file.parent / "missing.txt", file.parent):
        ended = run("eval", tiny, "-f", path)
        assert failed_in_one_line(ended)
        assert str(path) in ended.err
    monkeypatch.setattr(prompt, "MAX_BYTES", 20)
    assert failed_in_one_line(run("eval", tiny, "-f", file))


def test_a_context_or_stride_that_does_not_fit_is_refused_before_weights_are_read(
    run: Run, tiny: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_mistral.checkpoint.load.load_model", lambda *_, **__: 1 / 0)
    for flags in (("--context", "4097"), ("--context", "8", "--stride", "9")):
        ended = run("eval", tiny, "-f", file, *flags)
        assert failed_in_one_line(ended)
        assert "ask for less" in ended.err or "stride" in ended.err
    assert run("eval", tiny, "-f", file, "--context", "0").status == 2
    assert run("eval", tiny, "-f", file, "--limit", "-1").status == 2


def test_a_reference_of_another_tokenizer_is_refused(
    run: Run, tiny: Path, file: Path, tmp_path: Path
) -> None:
    other = copy_of(tiny, tmp_path / "other")
    shipped = Path(mistral_common.__file__).parent / "data"
    file_v3 = shipped / "mistral_instruct_tokenizer_240323.model.v3"
    (other / "tokenizer.model.v3").write_bytes(file_v3.read_bytes())
    ended = run("eval", tiny, "-f", file, "--reference", other)
    assert failed_in_one_line(ended)
    assert "tokenizer" in ended.err
    assert "other" in ended.err


def test_a_reference_of_another_vocabulary_is_refused(
    run: Run, tiny: Path, file: Path, tmp_path: Path
) -> None:
    other = copy_of(tiny, tmp_path / "other")
    widened(other)
    ended = run("eval", tiny, "-f", file, "--reference", other)
    assert failed_in_one_line(ended)
    assert "vocabulary" in ended.err


def test_weights_that_are_no_numbers_are_one_line_and_no_perplexity(
    run: Run, tiny: Path, file: Path, tmp_path: Path
) -> None:
    import mlx.core as mx

    broken = copy_of(tiny, tmp_path / "broken")
    weights = dict(mx.load(str(tiny / "model.safetensors")))
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    mx.save_safetensors(str(broken / "model.safetensors"), weights)
    ended = run("eval", broken, "-f", file, "--json")
    assert failed_in_one_line(ended)
    assert "logits of the model" in ended.err


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for one in folder.iterdir():
        (to / one.name).write_bytes(one.read_bytes())
    return to


def widened(folder: Path) -> None:
    """Gives the model in a folder one more token than its tokenizer has."""
    import mlx.core as mx

    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    weights = dict(mx.load(str(folder / "model.safetensors")))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = mx.concatenate([weights[name], weights[name][:1]])
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
