"""Which file is taken, and what a wrong, broken or hostile one leads to."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from mlx_mistral.errors import TokenizerError
from mlx_mistral.text import load_tokenizer
from mlx_mistral.text.files import find_tokenizer


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("names", "taken", "version"),
    [
        (["tokenizer.json", "tokenizer.model", "tekken.json"], "tekken.json", None),
        (["tokenizer.json", "tokenizer.model"], "tokenizer.model", None),
        (["tokenizer.model", "tokenizer.model.v3"], "tokenizer.model.v3", "v3"),
        (["tokenizer.model.v3", "tokenizer.model.v7m1"], "tokenizer.model.v7m1", "v7"),
        (["tokenizer.model.v3", "tokenizer.model.v11"], "tokenizer.model.v11", "v11"),
        (["mistral_instruct_tokenizer_240323.model.v3"], None, "v3"),
        (["tokenizer.json", "tokenizer_config.json", "config.json"], "tokenizer.json", None),
    ],
)
def test_the_newest_kind_of_file_is_taken(tmp_path, names, taken, version):
    found = find_tokenizer(touch(tmp_path, *names))
    assert found.path.name == (taken or names[0])
    assert found.version == version


def test_a_path_to_the_file_itself_works(folder_of):
    assert load_tokenizer(folder_of("v3") / "tokenizer.model.v3").version == "v3"
    assert load_tokenizer(str(folder_of("v3"))).version == "v3"


@pytest.mark.parametrize("version", ["v2", "v3", "v7"])
def test_a_bare_tokenizer_model_with_control_tokens_is_not_taken_for_v1(copy_of, ours, version):
    tokenizer = load_tokenizer(copy_of(version, "tokenizer.model"))
    assert tokenizer.version == version
    assert version in tokenizer.note
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]
    assert tokenizer.encode_chat(chat) == ours(version).encode_chat(chat)


@pytest.mark.parametrize("suffix", ["v2", "v3", "v7"])
def test_a_suffix_that_the_file_does_not_fulfil_is_refused(copy_of, suffix):
    folder = copy_of("v1" if suffix != "v7" else "v3", f"tokenizer.model.{suffix}")
    with pytest.raises(TokenizerError, match=r"control token \[\w+\] of v\d is missing, in"):
        load_tokenizer(folder)


def test_an_empty_or_absent_folder_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer .* in .*; copy it there"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match=r"no such folder: .*nowhere; "):
        load_tokenizer(tmp_path / "nowhere")


def test_what_is_no_file_is_no_tokenizer(tmp_path):
    (tmp_path / "tekken.json").mkdir()
    os.mkfifo(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match="no tokenizer"):
        load_tokenizer(tmp_path)


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "tekken.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(TokenizerError, match=r"too large for a tokenizer, in .*"):
        load_tokenizer(tmp_path)


GARBAGE = [b"", b"\0", b"{}", b"[]", b"null", b"\xff\xfe", b"{", b"[" * 200_000, bytes(1000)]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize(
    "file", ["tekken.json", "tokenizer.model", "tokenizer.model.v3", "tokenizer.json"]
)
def test_garbage_is_refused_in_one_line(tmp_path, file, garbage):
    (tmp_path / file).write_bytes(garbage)
    with pytest.raises(TokenizerError, match=r"^[^\n]+; download it again$") as caught:
        load_tokenizer(tmp_path)
    assert file in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def small_tekken(**changes):
    """A Tekken file of single bytes and a few control tokens."""
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]"]
    names += ["[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]"]
    names += ["[PREFIX]", "[SUFFIX]"]
    config = {
        "pattern": r"\p{L}+|\s+|.",
        "version": "v3",
        "default_vocab_size": 256 + 20,
        "default_num_special_tokens": 20,
    }
    return {
        "config": config | changes.pop("config", {}),
        "vocab": [
            {
                "rank": i,
                "token_bytes": base64.b64encode(bytes([i])).decode(),
                "token_str": None,
            }
            for i in range(256)
        ],
        "special_tokens": [
            {"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)
        ],
    } | changes


def load_small_tekken(folder, **changes):
    (folder / "tekken.json").write_text(json.dumps(small_tekken(**changes)))
    return load_tokenizer(folder)


def test_a_tekken_file_of_any_size_works(tmp_path):
    tokenizer = load_small_tekken(tmp_path)
    assert tokenizer.vocab_size == 276
    ids = tokenizer.encode_chat([{"role": "user", "content": "é"}])
    assert ids == [1, 3, 20 + 0xC3, 20 + 0xA9, 4]
    assert tokenizer.pieces(ids) == ["<s>", "[INST]", "<0xC3>", "<0xA9>", "[/INST]"]


CONTROL = small_tekken()["special_tokens"]
WRONG_TEKKEN = {
    "unknown version": {"config": {"version": "v99"}},
    "version of another type": {"config": {"version": 3}},
    "too many controls": {"config": {"default_num_special_tokens": 10**12}},
    "negative controls": {"config": {"default_num_special_tokens": -1}},
    "controls as text": {"config": {"default_num_special_tokens": "20"}},
    "vocabulary too large": {"config": {"default_vocab_size": 10**12}},
    "vocabulary too small": {"config": {"default_vocab_size": 200}},
    "vocabulary infinite": {"config": {"default_vocab_size": float("inf")}},
    "pattern of another type": {"config": {"pattern": 5}},
    "broken pattern": {"config": {"pattern": "(("}},
    "vocab as object": {"vocab": {}},
    "vocab of text": {"vocab": ["a"] * 256},
    "vocab out of order": {"vocab": small_tekken()["vocab"][::-1]},
    "not base64": {"vocab": [{"rank": i, "token_bytes": "é", "token_str": ""} for i in range(256)]},
    "controls as object": {"special_tokens": {"a": 1}},
    "controls without rank": {"special_tokens": [{"token_str": "<s>"}]},
    "control beyond": {"special_tokens": [*CONTROL[:-1], {**CONTROL[-1], "rank": 10**6}]},
    "control twice": {"special_tokens": [*CONTROL, {**CONTROL[-1], "rank": 12}]},
    "control missing": {"special_tokens": CONTROL[:3]},
    "no end token": {"special_tokens": [*CONTROL[:2], {**CONTROL[2], "token_str": "x"}]},
    "no controls in v13": {"special_tokens": None, "config": {"version": "v13"}},
    "settings before v15": {"model_settings_builder": {"reasoning_effort": {}}},
}


@pytest.mark.parametrize("case", WRONG_TEKKEN)
def test_a_wrong_tekken_file_is_refused_in_one_line(tmp_path, case):
    with pytest.raises(TokenizerError, match=r"^[^\n]+; [^\n]+$") as caught:
        load_small_tekken(tmp_path, **WRONG_TEKKEN[case])
    assert len(str(caught.value)) < 700


def test_a_pattern_that_never_ends_is_refused(tmp_path):
    tokenizer = load_small_tekken(tmp_path, config={"pattern": r"(a|a|aa)+(?=b)(?!b)|."})
    with pytest.raises(TokenizerError, match="cannot be encoded"):
        tokenizer.encode("a" * 2000)


def test_damaged_sentencepiece_files_never_crash(folder_of, tmp_path):
    """In another process, since the library is C++; every damage loads or is refused."""
    whole = (folder_of("v3") / "tokenizer.model.v3").read_bytes()
    chance = random.Random(7)
    for number in range(12):
        data = bytearray(whole)
        if number % 3 == 0:
            del data[chance.randrange(len(data)) :]
        for _ in range(number % 3 * 4):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "tokenizer.model.v3").write_bytes(data)
    script = """if True:
        import sys
        from mlx_mistral.errors import TokenizerError
        from mlx_mistral.text import load_tokenizer
        for folder in sys.argv[1:]:
            try:
                tokenizer = load_tokenizer(folder)
                tokenizer.decode(tokenizer.encode_chat([{"role": "user", "content": "Hi é"}]))
            except TokenizerError as error:
                assert chr(10) not in str(error)
            print("done")
    """
    folders = [str(tmp_path / str(number)) for number in range(12)]
    run = subprocess.run(
        [sys.executable, "-c", script, *folders], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.split()) == (0, ["done"] * 12), run.stderr


def test_importing_text_loads_no_tokenizer_library():
    script = "import sys, mlx_mistral.text; print(sorted(sys.modules))"
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True)
    for library in ("mistral_common", "sentencepiece", "tokenizers", "jinja2", "numpy", "mlx.core"):
        assert f"'{library}'" not in loaded


def test_loading_sentencepiece_needs_no_hub_and_no_transformers(folder_of):
    script = (
        "import sys; from mlx_mistral.text import load_tokenizer; "
        f"load_tokenizer({str(folder_of('v3'))!r}); print(sorted(sys.modules))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", script], text=True)
    for library in ("huggingface_hub", "transformers", "torch", "mlx.core", "tokenizers"):
        assert f"'{library}'" not in loaded


def test_a_read_only_copy_without_other_files_is_enough(folder_of, tmp_path):
    copy = shutil.copy(folder_of("v7-tekken") / "tekken.json", tmp_path / "tekken.json")
    os.chmod(copy, 0o400)
    os.chmod(tmp_path, 0o500)
    try:
        assert load_tokenizer(tmp_path).version == "v7-tekken"
    finally:
        os.chmod(tmp_path, 0o700)
