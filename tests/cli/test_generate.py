from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line
from tiny import LetterTokenizer

from mlx_mistral import generate, load, stream_generate
from mlx_mistral.cli.generate import load_draft_model
from mlx_mistral.cli.terminal import Progress
from mlx_mistral.errors import MlxMistralError

KEYS = {
    "text", "token_ids", "prompt_tokens", "prompt_tps", "generation_tokens", "generation_tps",
    "peak_memory_bytes", "finish_reason", "model",
}  # fmt: skip
SHORT = ("--max-tokens", "12")


def test_stdout_is_the_reply_and_statistics_go_to_stderr(run: Run, tiny: Path) -> None:
    model, tokenizer = load(str(tiny))
    ids = tokenizer.encode_chat([{"role": "user", "content": "Hello"}])
    expected = generate(model, tokenizer, ids, max_tokens=12)
    ended = run("generate", tiny, "-p", "Hello", *SHORT)
    assert (ended.status, ended.out) == (0, expected.removesuffix("\n") + "\n")
    assert f"prompt: {len(ids)} tokens" in ended.err
    assert "reply: 12 tokens" in ended.err


def test_json_is_one_object_with_the_promised_keys(run: Run, tiny: Path) -> None:
    model, tokenizer = load(str(tiny))
    ids = tokenizer.encode_chat(
        [{"role": "system", "content": "Short."}, {"role": "user", "content": "Hello"}]
    )
    expected = list(stream_generate(model, tokenizer, ids, max_tokens=12))
    ended = run("generate", tiny, "-p", "Hello", "--system", "Short.", *SHORT, "--json")
    assert ended.err == ""
    assert set(ended.json) == KEYS
    assert ended.json["text"] == "".join(response.text for response in expected)
    assert ended.json["token_ids"] == [response.token for response in expected]
    assert ended.json["prompt_tokens"] == len(ids)
    assert ended.json["generation_tokens"] == 12
    assert ended.json["finish_reason"] == "length"
    assert ended.json["model"] == str(tiny)
    assert ended.json["peak_memory_bytes"] > 10_000
    assert ended.json["prompt_tps"] > 0


def test_raw_feeds_the_text_after_bos_and_nothing_else(run: Run, tiny: Path) -> None:
    tokenizer = load(str(tiny))[1]
    ended = run("generate", tiny, "-p", "Hello", "--raw", *SHORT, "--json")
    assert ended.json["prompt_tokens"] == 1 + len(tokenizer.encode("Hello"))


def test_sampling_flags_reach_the_sampler(run: Run, tiny: Path) -> None:
    def ids(*flags: str) -> list[int]:
        text = run("generate", tiny, "-p", "Hello", *SHORT, *flags, "--json")
        assert text.status == 0, text.err
        return list(text.json["token_ids"])

    greedy = ids()
    assert ids("--temp", "0", "--seed", "3") == greedy
    warm = ids("--temp", "1.5", "--seed", "3")
    assert warm != greedy
    assert ids("--temp", "1.5", "--seed", "3") == warm
    assert ids("--temp", "1.5", "--seed", "4") != warm
    assert ids("--temp", "1.5", "--top-k", "1") == greedy
    assert ids("--temp", "1.5", "--top-p", "0.000001") == greedy
    assert ids("--temp", "1.5", "--min-p", "1") == greedy
    assert len(set(ids("--max-tokens", "200"))) < 190
    assert len(set(ids("--max-tokens", "200", "--repetition-penalty", "1000000"))) == 200


def test_a_stop_text_ends_the_reply_before_it(run: Run, tiny: Path) -> None:
    whole = run("generate", tiny, "-p", "Hello", *SHORT, "--json").json["text"]
    stop = whole[len(whole) // 2 :][:2]
    ended = run("generate", tiny, "-p", "Hello", *SHORT, "--stop", "\x02", "--stop", stop, "--json")
    assert ended.json["text"] == whole[: whole.index(stop)]
    assert ended.json["finish_reason"] == "stop"


@pytest.mark.parametrize("drafts", [["--speculate"], ["--draft", "TINY"]])
def test_drafts_leave_the_reply_as_it_is(run: Run, tiny: Path, drafts: list[str]) -> None:
    flags = ["-p", "Hello", "--max-tokens", "40", "--temp", "0.8", "--seed", "3", "--json"]
    plain = run("generate", tiny, *flags).json
    drafted = run("generate", tiny, *flags, *(str(tiny) if f == "TINY" else f for f in drafts)).json
    assert set(drafted) == KEYS | {"drafts"}
    assert drafted["token_ids"] == plain["token_ids"]
    assert drafted["drafts"]["tokens"] == 40
    assert drafted["drafts"]["accepted"] <= drafted["drafts"]["drafted"]


def test_what_drafting_did_goes_to_stderr(run: Run, tiny: Path) -> None:
    ended = run("generate", tiny, "-p", "Hello", *SHORT, "--speculate")
    assert "tokens a pass" in ended.err


def test_drafts_for_several_replies_are_refused(run: Run, tiny: Path) -> None:
    ended = run("generate", tiny, "-p", "Hello", "-n", "2", "--speculate")
    assert failed_in_one_line(ended)


def test_a_draft_model_with_other_tokens_is_refused(tiny: Path) -> None:
    args = Namespace(model="letters", draft=str(tiny), dtype=None, quiet=True)
    with pytest.raises(MlxMistralError, match="same tokenizer"):
        load_draft_model(args, LetterTokenizer(), Progress(quiet=True))  # type: ignore[arg-type]


def test_samples_are_drawn_as_one_batch(run: Run, tiny: Path) -> None:
    ended = run("generate", tiny, "-p", "Hello", *SHORT, "-n", "3", "--seed", "1", "--json")
    assert set(ended.json) == KEYS
    assert len(set(ended.json["text"])) == 3
    assert [len(ids) for ids in ended.json["token_ids"]] == [12, 12, 12]
    assert ended.json["generation_tokens"] == 36
    assert ended.json["finish_reason"] == ["length"] * 3
    assert ended.json["peak_memory_bytes"] > 10_000
    again = run("generate", tiny, "-p", "Hello", *SHORT, "--num-samples", "3", "--seed", "1")
    assert again.out == "".join(
        text if text.endswith("\n") else f"{text}\n" for text in ended.json["text"]
    )


def test_greedy_samples_are_remarked_on(run: Run, tiny: Path) -> None:
    ended = run("generate", tiny, "-p", "Hello", *SHORT, "-n", "2", "--temp", "0", "--json")
    assert ended.json["text"][0] == ended.json["text"][1]
    assert "--temp" in ended.err


def test_a_prompt_longer_than_the_context_is_one_line(run: Run, tiny: Path) -> None:
    text = "Hello " * 30
    assert failed_in_one_line(run("generate", tiny, "-p", text, "--context", "9"))
    assert failed_in_one_line(run("generate", tiny, "-p", text * 200))


@pytest.mark.parametrize("flags", [["--dtype", "bfloat16"], ["--dtype", "float32"]], ids=" ".join)
def test_the_type_of_activations_can_be_chosen(run: Run, tiny: Path, flags: list[str]) -> None:
    assert run("generate", tiny, "-p", "Hello", "--max-tokens", "2", *flags).status == 0


def test_an_empty_reply_is_an_empty_line(run: Run, tiny: Path) -> None:
    whole = run("generate", tiny, "-p", "Hello", *SHORT, "--json").json["text"]
    first = next(character for character in whole if not character.isspace())
    stopped = run("generate", tiny, "-p", "Hello", *SHORT, "--stop", first, "--quiet")
    assert stopped.out.strip() == ""
    assert stopped.out.endswith("\n")
    samples = run("generate", tiny, "-p", "Hello", "--stop", first, "-n", "3", "--temp", "0")
    assert samples.out == 3 * stopped.out


def test_the_largest_numbers_are_taken_as_they_are(run: Run, tiny: Path) -> None:
    largest = str(2**31 - 1)
    flags = ["--top-k", largest, "--context", "4096", "--seed", str(2**63 - 1), "--temp", "1"]
    assert run("generate", tiny, "-p", "Hello", *SHORT, *flags).status == 0
