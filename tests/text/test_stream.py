"""Streaming against the full decode of mistral-common."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_mistral.errors import TokenizerError

TEXT = "  Été 😀👩‍👩‍👧\n中文 العربية\tx  \0 end "


def streamed(tokenizer, ids, **options):
    stream = tokenizer.stream(**options)
    return [*map(stream.add, ids), stream.finish()]


def byte_ids(tokenizer):
    names = {f"<0x{byte:02X}>" for byte in range(128, 256)}
    small = range(min(tokenizer.vocab_size, 2000))
    return [i for i, piece in zip(small, tokenizer.pieces(small), strict=True) if piece in names]


def test_deltas_join_to_the_full_decode(ours, theirs, name):
    tokenizer = ours(name)
    ids = tokenizer.encode(TEXT)
    assert "".join(streamed(tokenizer, ids)) == theirs(name).decode(ids) == TEXT


def test_every_delta_is_whole_characters(ours, name):
    tokenizer = ours(name)
    deltas = streamed(tokenizer, tokenizer.encode(TEXT))
    assert not any("\ufffd" in delta for delta in deltas)


def test_a_character_comes_out_with_its_last_byte(ours):
    for name in ("v1", "v3", "v7-tekken"):
        tokenizer = ours(name)
        ids = tokenizer.encode("a\U0001fae0")  # in no vocabulary, so four bytes
        deltas = streamed(tokenizer, ids)
        assert len(ids) >= 4
        assert deltas[-2:] == ["\U0001fae0", ""]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), keep_control=st.booleans())
def test_any_ids_stream_to_the_full_decode(ours, theirs, data, keep_control):
    name = data.draw(st.sampled_from(["v1", "v3", "v13-tekken"]))
    tokenizer = ours(name)
    anything = st.integers(0, tokenizer.vocab_size - 1)
    control = st.sampled_from([i for i in range(30) if tokenizer.is_control(i)])
    space = st.sampled_from(tokenizer.encode("x a" + " " * 5))
    broken = st.sampled_from(byte_ids(tokenizer))
    ids = data.draw(st.lists(st.one_of(broken, broken, control, space, anything), max_size=20))
    text = "".join(streamed(tokenizer, ids, keep_control=keep_control))
    assert text == tokenizer.decode(ids, keep_control=keep_control)
    if not keep_control:
        assert text == theirs(name).decode(ids)


@pytest.mark.parametrize("bytes_", ["E2 98", "F0 9F 98", "C3 28", "ED A0 80", "80 C0 AF FF", "C3"])
def test_broken_utf8_becomes_the_marks_of_the_full_decode(ours, theirs, bytes_):
    for name in ("v3", "v3-tekken"):
        tokenizer = ours(name)
        by_piece = {piece: i for i, piece in enumerate(tokenizer.pieces(range(1400)))}
        by_piece |= {f"<0x{i - 1000:02X}>": i for i in range(1000, 1256) if "tekken" in name}
        ids = [by_piece[f"<0x{byte}>"] for byte in bytes_.split()]
        assert "".join(streamed(tokenizer, ids)) == theirs(name).decode(ids)
        assert "\ufffd" in tokenizer.decode(ids)


@pytest.mark.parametrize("between", [2, 3])
def test_a_control_token_ends_a_character_that_lacks_bytes(ours, theirs, between):
    for name in ("v3", "v3-tekken"):
        tokenizer = ours(name)
        ids = tokenizer.encode("\U0001fae0")
        assert len(ids) >= 4
        ids[-2:-2] = [between]
        expected = theirs(name).decode(ids)
        assert "".join(streamed(tokenizer, ids)) == expected
        assert "\U0001fae0" not in expected


def test_a_finished_stream_starts_anew(ours, name):
    tokenizer = ours(name)
    stream = tokenizer.stream()
    for text in ("One", "Été 😀", " two"):
        ids = tokenizer.encode(text)
        assert "".join(map(stream.add, ids)) + stream.finish() == text


def test_control_tokens_are_silent_unless_kept(ours):
    tokenizer = ours("v13-tekken")
    begin, end = tokenizer.control_id("[THINK]"), tokenizer.control_id("[/THINK]")
    ids = [begin, *tokenizer.encode("Hm"), end, *tokenizer.encode("Yes"), 2]
    assert tokenizer.decode(ids) == "HmYes"
    assert tokenizer.decode(ids, keep_control=True) == "[THINK]Hm[/THINK]Yes</s>"
    assert streamed(tokenizer, ids, keep_control=True)[0] == "[THINK]"


def test_kept_control_tokens_are_named_as_in_mistral_common(ours, theirs):
    tokenizer = ours("v7-tekken")
    ids = tokenizer.encode_chat([{"role": "user", "content": "Été 😀"}])
    assert tokenizer.decode(ids, keep_control=True) == theirs("v7-tekken").decode(ids, "keep")


def test_work_per_id_does_not_grow(ours, monkeypatch):
    """SentencePiece is asked for at most a few ids at a time, however long the reply."""
    tokenizer = ours("v3")
    vocabulary = tokenizer._vocabulary
    seen = []
    stream = vocabulary.stream(keep_control=False)
    stream._decode = lambda ids: seen.append(len(ids)) or vocabulary._model.decode(ids)
    space = tokenizer.encode(" x")[0]
    for token_id in [space] * 300 + tokenizer.encode("word " * 300):
        stream.add(token_id)
    assert max(seen) <= 3


@pytest.mark.parametrize("bad", [-1, 10**6, 2**70, 1.5, "a", None])
def test_ids_outside_the_vocabulary_are_refused(ours, name, bad):
    tokenizer = ours(name)
    for use in (
        lambda: tokenizer.decode([1, bad]),
        lambda: tokenizer.decode([bad], keep_control=True),
        lambda: tokenizer.pieces([bad]),
        lambda: tokenizer.is_control(bad),
        lambda: tokenizer.stream().add(bad),
    ):
        with pytest.raises(TokenizerError, match=r"^[^\n]*token id[^\n]*$"):
            use()


def test_numpy_integers_are_ids(ours):
    numpy = pytest.importorskip("numpy")
    tokenizer = ours("v3")
    ids = numpy.array(tokenizer.encode("One two"), dtype=numpy.int32)
    assert tokenizer.decode(ids) == "One two"


@pytest.mark.parametrize("bad", ["text", b"bytes", 5, None])
def test_decode_wants_a_list_of_ids(ours, bad):
    with pytest.raises(TokenizerError, match="list of integers"):
        ours("v3").decode(bad)
