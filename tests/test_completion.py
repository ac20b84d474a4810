"""Prompts to text: deltas, stop strings, finish reasons, statistics, batches."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from tiny import LetterTokenizer, random_ids, tiny_config, tiny_model

from mlx_mistral.batch_completion import batch_generate
from mlx_mistral.completion import (
    GenerationResponse,
    generate,
    stream_generate,
)
from mlx_mistral.errors import MlxMistralError, TokenizerError
from mlx_mistral.generation import SamplingOptions
from mlx_mistral.model import Model
from mlx_mistral.text.stop import StopStrings

TOKENIZER = LetterTokenizer()


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(tiny_config(vocab_size=266, sliding_window=8))


def say(model: Model, script: Sequence[int]) -> Model:
    """A model of the same kind that says this and nothing else, whatever it reads."""
    scripted = tiny_model(model.config)

    class Scripted(Model):
        is_traceable = False

        def head(self, hidden: mx.array) -> mx.array:
            token = script[min(self.spoken, len(script) - 1)]
            self.spoken += 1
            row = mx.where(mx.arange(266) == token, 9.0, 0.0)
            return mx.broadcast_to(row, (*hidden.shape[:2], 266))

    scripted.__class__ = Scripted
    scripted.spoken = 0
    return scripted


def responses(model: Model, text: str, end: int = 2, **options: object) -> list[GenerationResponse]:
    script = [*TOKENIZER.encode(text), end]
    return list(stream_generate(say(model, script), TOKENIZER, [1, 2], **options))  # type: ignore[arg-type]


def test_deltas_together_are_the_reply_and_characters_come_whole(model: Model) -> None:
    made = responses(model, "Ça va ? 🙂 oui")
    assert "".join(r.text for r in made) == "Ça va ? 🙂 oui"
    assert all("\ufffd" not in r.text for r in made)
    assert [r.finish_reason for r in made] == [None] * (len(made) - 1) + ["stop"]
    assert made[-1].token == 2


def test_the_last_of_max_tokens_says_length_and_gives_what_was_held(model: Model) -> None:
    made = responses(model, "abé", max_tokens=3)
    assert "".join(r.text for r in made) == "ab\ufffd"
    assert made[-1].finish_reason == "length"
    assert made[-1].generation_tokens == 3


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["END"], "one two "),
        (["two", "END"], "one "),
        (["nothing"], "one two END three"),
        (["e "], "on"),
        ("END", "one two "),
    ],
)
def test_a_stop_string_ends_the_reply_across_token_borders(
    model: Model, stop: list[str], expected: str
) -> None:
    made = responses(model, "one two END three", stop=stop)
    assert "".join(r.text for r in made) == expected
    assert made[-1].finish_reason == "stop"


def test_text_that_only_began_like_a_stop_string_is_given_out(model: Model) -> None:
    made = responses(model, "a<<b<", stop=["<<<"])
    assert "".join(r.text for r in made) == "a<<b<"
    cut = responses(model, "a<<b", stop=["<<<"], max_tokens=3)
    assert "".join(r.text for r in cut) == "a<<"


@pytest.mark.parametrize("pieces", [["ab", "ab", "ac"], ["a", "b", "a", "b", "a", "c"], ["ababac"]])
def test_overlapping_beginnings_of_a_stop_string_are_kept_apart(pieces: list[str]) -> None:
    stops, out = StopStrings(["abac"]), ""
    for piece in pieces:
        text, ended = stops.add(piece)
        out += text
    assert (out, ended) == ("ab", True)


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert StopStrings(["late", "early"]).add("so early, then late") == ("so ", True)


def test_an_empty_stop_string_is_refused(model: Model) -> None:
    with pytest.raises(TokenizerError, match="empty"):
        responses(model, "x", stop=["a", ""])


def test_ids_alone_need_no_tokenizer(model: Model) -> None:
    made = list(stream_generate(model, None, random_ids(5), max_tokens=7))
    assert [r.text for r in made] == [""] * 7
    assert made[-1].finish_reason == "length"
    assert generate(model, None, mx.array(random_ids(5)), max_tokens=2) == ""


def test_a_text_prompt_is_encoded_after_bos(model: Model) -> None:
    by_text = generate(model, TOKENIZER, "hello", max_tokens=9)  # type: ignore[arg-type]
    assert by_text == generate(model, TOKENIZER, [1, *TOKENIZER.encode("hello")], max_tokens=9)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", ["", [], mx.array([], dtype=mx.int32)])
def test_an_empty_prompt_is_told(model: Model, prompt: str) -> None:
    with pytest.raises(MlxMistralError, match="empty"):
        generate(model, TOKENIZER, prompt)  # type: ignore[arg-type]


def test_a_text_prompt_without_a_tokenizer_is_told(model: Model) -> None:
    with pytest.raises(TokenizerError, match="tokenizer"):
        generate(model, None, "hello")


@pytest.mark.parametrize("prompt", [mx.array([[1, 2]]), mx.array(3), ["a"]])
def test_a_prompt_that_is_no_list_of_ids_is_told(model: Model, prompt: object) -> None:
    with pytest.raises(TokenizerError, match="token ids"):
        generate(model, None, prompt)  # type: ignore[arg-type]


def test_statistics_count_what_was_done(model: Model) -> None:
    made = list(stream_generate(model, None, random_ids(11), max_tokens=4))
    assert [r.prompt_tokens for r in made] == [11] * 4
    assert [r.generation_tokens for r in made] == [1, 2, 3, 4]
    assert all(r.prompt_tps > 0 for r in made)
    assert made[0].generation_tps == 0
    assert made[-1].generation_tps > 0
    assert made[-1].peak_memory > 0


def test_logprobs_are_the_models_own(model: Model) -> None:
    prompt = random_ids(6)
    first = next(stream_generate(model, None, prompt, max_tokens=3))
    logits = np.array(model(mx.array([prompt]))[0, -1], dtype=np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    assert np.abs(np.array(first.logprobs) - expected).max() < 1e-5
    assert first.token == expected.argmax()


def test_logprobs_that_nobody_looks_at_are_not_built(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[mx.array] = []
    original = mx.logsumexp
    monkeypatch.setattr(mx, "logsumexp", lambda x: built.append(x) or original(x))
    made = list(stream_generate(model, None, random_ids(5), max_tokens=3))
    assert not built
    assert all(r.logprobs.argmax().item() == r.token for r in made)
    assert len(built) == 3


def test_a_given_cache_comes_before_the_prompt(model: Model) -> None:
    ids, cache = random_ids(20), model.make_cache()
    model(mx.array([ids[:12]]), cache)
    went_on = list(stream_generate(model, None, ids[12:], prompt_cache=cache, max_tokens=6))
    anew = list(stream_generate(model, None, ids, max_tokens=6))
    assert [r.token for r in went_on] == [r.token for r in anew]


def test_a_batch_has_an_entry_a_prompt(model: Model) -> None:
    prompts = [random_ids(4), random_ids(9, seed=1), "text"]
    batch = batch_generate(model, TOKENIZER, prompts, max_tokens=5)  # type: ignore[arg-type]
    for prompt, text, ids, stats in zip(
        prompts, batch.texts, batch.token_ids, batch.stats, strict=True
    ):
        alone = list(stream_generate(model, TOKENIZER, prompt, max_tokens=5))  # type: ignore[arg-type]
        assert ids == [r.token for r in alone]
        assert text == "".join(r.text for r in alone)
        assert stats.finish_reason == alone[-1].finish_reason
        assert stats.prompt_tokens == alone[-1].prompt_tokens
        assert stats.generation_tokens == len(ids)


def test_texts_of_a_batch_end_on_their_own(model: Model) -> None:
    """Rows that draw different tokens end at different places; each keeps only its own."""
    batch = batch_generate(
        model,
        TOKENIZER,  # type: ignore[arg-type]
        [[5]] * 24,
        max_tokens=40,
        temp=3.0,
        seed=1,
    )
    ended = [i for i, s in enumerate(batch.stats) if s.finish_reason == "stop"]
    assert 0 < len(ended) < 24
    for i, ids in enumerate(batch.token_ids):
        assert (2 in ids) == (i in ended)
        assert 2 not in ids[:-1]
        assert batch.texts[i] == TOKENIZER.decode(ids)
    assert len(set(batch.texts)) == 24


@pytest.mark.parametrize("max_batch", [1, 2, 32])
def test_samples_of_a_seed_are_repeated_whatever_their_number_and_the_first_is_the_only_one(
    model: Model, max_batch: int
) -> None:
    options: SamplingOptions = {"temp": 1.0, "top_p": 0.95, "seed": 3}
    few, many = (
        batch_generate(model, None, [[5, 6]] * n, 8, max_batch=max_batch, **options) for n in (2, 5)
    )
    assert many.token_ids[:2] == few.token_ids
    assert len({tuple(ids) for ids in many.token_ids}) == 5
    alone = stream_generate(model, None, [5, 6], max_tokens=8, **options)
    assert [r.token for r in alone] == many.token_ids[0]


def test_texts_that_wait_for_room_come_in_the_order_of_their_prompts(model: Model) -> None:
    prompts = [random_ids(n, seed=n) for n in (9, 2, 14, 5, 5)]
    batch = batch_generate(model, None, prompts, 6, max_batch=2)
    for prompt, ids in zip(prompts, batch.token_ids, strict=True):
        assert ids == [r.token for r in stream_generate(model, None, prompt, max_tokens=6)]
