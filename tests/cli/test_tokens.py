from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mistral_common
import pytest
from command_line import Run, failed_in_one_line
from mistral_common.protocol.instruct.messages import UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

SHIPPED = Path(mistral_common.__file__).parent / "data"
V3 = SHIPPED / "mistral_instruct_tokenizer_240323.model.v3"
TEXT = "Ça va ? 😀 [INST] 12"


@pytest.fixture(scope="module")
def reference() -> MistralTokenizer:
    return MistralTokenizer.from_file(str(V3))


def test_a_text_becomes_the_reference_ids(run: Run, reference: MistralTokenizer) -> None:
    ids = reference.instruct_tokenizer.tokenizer.encode(TEXT, bos=False, eos=False)
    told = run("tokens", V3, "-p", TEXT, "--json").json
    assert {"ids", "pieces", "count", "chars_per_token"} <= set(told)
    assert told["ids"] == ids
    assert told["count"] == len(told["pieces"]) == len(ids)
    assert told["chars_per_token"] == pytest.approx(len(TEXT) / len(ids))


def test_the_table_has_a_row_a_token_and_a_summary(run: Run) -> None:
    ended = run("tokens", V3, "-p", "Hello  \t!")
    rows = ended.out.splitlines()
    ids = run("tokens", V3, "-p", "Hello  \t!", "--json").json["ids"]
    assert [int(row.split()[0]) for row in rows[: len(ids)]] == ids
    assert rows[-1].startswith(f"{len(ids)} tokens for 9 characters")
    assert "\t" not in ended.out
    assert "control" not in ended.out


def test_files_and_pipes_count_to_the_last_character(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"two\nlines\n")
    piped = run("tokens", V3, "--json", stdin=b"two\nlines\n").json
    assert run("tokens", V3, "-f", file, "--json").json == piped
    assert piped["ids"] != run("tokens", V3, "-p", "two\nlines", "--json").json["ids"]


def test_a_chat_is_written_as_the_reference_writes_it(
    run: Run, reference: MistralTokenizer, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    messages = [{"role": "user", "content": TEXT}]
    request: ChatCompletionRequest = ChatCompletionRequest(messages=[UserMessage(content=TEXT)])
    expected = reference.encode_chat_completion(request).tokens
    for chat in (messages, {"messages": messages}):
        file.write_text(json.dumps(chat))
        assert run("tokens", V3, "--chat", file, "--json").json["ids"] == expected
    rows = run("tokens", V3, "--chat", file).out.splitlines()
    marked = [row for row in rows if row.endswith("(control)")]
    assert [row.split()[1] for row in marked] == ["<s>", "[INST]", "[/INST]"]


def test_two_tokenizers_stand_side_by_side(run: Run) -> None:
    tekken = SHIPPED / "tekken_240718.json"
    told = run("tokens", V3, "-p", TEXT, "--compare", tekken, "--json").json
    alone = run("tokens", tekken, "-p", TEXT, "--json").json
    assert told["compare"] == alone
    assert told["compare"]["ids"] != told["ids"]
    table = run("tokens", V3, "-p", TEXT, "--compare", tekken).out.splitlines()
    n_rows = max(told["count"], alone["count"])
    assert table[n_rows] == ""
    assert len(table) == n_rows + 3


def test_no_text_is_no_tokens(run: Run) -> None:
    told = run("tokens", V3, "-p", "", "--json").json
    assert (told["ids"], told["count"], told["chars_per_token"]) == ([], 0, None)


@pytest.mark.parametrize(
    "chat", ["{", "[1]", '"hi"', '{"messages": 3}', "[" * 100_000, '[{"role": "king"}]', "[]",
             '{"messages": [{"role": "user", "content": "x"}], "tools": 3}']
)  # fmt: skip
def test_a_malformed_chat_is_one_line(run: Run, tmp_path: Path, chat: str) -> None:
    file = tmp_path / "chat.json"
    file.write_text(chat)
    assert failed_in_one_line(run("tokens", V3, "--chat", file))


def test_a_chat_and_a_text_exclude_each_other(run: Run, tmp_path: Path) -> None:
    assert run("tokens", V3, "--chat", tmp_path / "x.json", "-p", "a").status == 2


def test_neither_weights_nor_mlx_are_needed() -> None:
    program = (
        "import sys; from mlx_mistral.cli.main import main;"
        f"main(['tokens', {str(V3)!r}, '-p', 'Hello']); sys.exit('mlx.core' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
