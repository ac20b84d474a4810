from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line

from mlx_mistral.cli import prompt


def reply(run: Run, *args: str | Path, stdin: bytes = b"") -> str:
    ended = run("generate", *args, "--max-tokens", "5", "--quiet", stdin=stdin)
    assert (ended.status, ended.err) == (0, "")
    return ended.out


def test_the_three_sources_are_the_same_prompt(run: Run, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("Où ? 😀\n", encoding="utf-8")
    text = reply(run, tiny, "-p", "Où ? 😀")
    assert reply(run, tiny, "-f", file) == text
    assert reply(run, tiny, stdin="Où ? 😀\n".encode()) == text
    assert reply(run, tiny, "-f", "-", stdin="\ufeffOù ? 😀\r\n".encode()) == text


@pytest.mark.parametrize("text", [b"", b"\n", b" \t \n"])
def test_an_empty_prompt_is_refused(run: Run, tiny: Path, text: bytes) -> None:
    ended = run("generate", tiny, stdin=text)
    assert failed_in_one_line(ended)
    assert "empty" in ended.err
    assert failed_in_one_line(run("generate", tiny, "-p", text.decode()))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00H", b"PK\x03\x04\x00\x00", b"ok\x80", b"a\x00b"])
def test_binary_data_is_refused(run: Run, tiny: Path, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "data.bin"
    file.write_bytes(data)
    ended = run("generate", tiny, "-f", file)
    assert failed_in_one_line(ended)
    assert "data.bin" in ended.err
    assert failed_in_one_line(run("generate", tiny, stdin=data))


def test_a_file_that_cannot_be_read_is_named(run: Run, tiny: Path, tmp_path: Path) -> None:
    ended = run("generate", tiny, "-f", tmp_path / "missing.txt")
    assert failed_in_one_line(ended)
    assert "missing.txt" in ended.err
    assert failed_in_one_line(run("generate", tiny, "-f", tmp_path))


def test_an_endless_source_is_cut_off(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt, "MAX_BYTES", 1000)
    ended = run("generate", tiny, "-f", "/dev/zero")
    assert failed_in_one_line(ended)


def test_a_prompt_may_come_from_another_program(run: Run, tiny: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"Hello\n")
    os.close(writing)
    assert reply(run, tiny, "-f", f"/dev/fd/{reading}") == reply(run, tiny, "-p", "Hello")
    os.close(reading)


def test_an_argument_that_is_no_text_is_refused(run: Run, tiny: Path) -> None:
    assert failed_in_one_line(run("generate", tiny, "-p", "caf\udce9"))
