"""Slash commands and attachments: what is meant is found, what is wrong is said in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_mistral.tui.commands.attach import (
    Attachment,
    AttachmentError,
    attached,
    beginning,
    list_folder,
    mention_at,
    mentions,
    parent_of,
    quoted,
    read,
)
from mlx_mistral.tui.commands.complete import Candidate, complete
from mlx_mistral.tui.commands.parse import Command, Refused, is_command, message_of, parse
from mlx_mistral.tui.commands.table import BY_NAME, COMMANDS, help_lines

PROMISED = (
    "model system temp top-p max-tokens seed cache-bits save export import retry branch edit "
    "search stats tokens clear help quit"
)


def complete_path(begun: str, folder: Path) -> list[str]:
    return beginning(begun, list_folder(parent_of(begun), folder))


def test_the_commands_are_those_promised_and_fit_a_line_of_help() -> None:
    assert [spec.name for spec in COMMANDS] == PROMISED.split()
    lines = help_lines()
    assert len(lines) == len(COMMANDS)
    assert help_lines("quit") == ["/quit  leave; the conversation is kept"]
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/model", Command(name="model")),
        ("/model  mistral 7b ", Command(name="model", value="mistral 7b")),
        ("/system Be brief.\nAnd kind.", Command(name="system", value="Be brief.\nAnd kind.")),
        ("/system", Command(name="system")),
        ("/temp 0.7", Command(name="temp", value=0.7)),
        ("/temp 0", Command(name="temp", value=0.0)),
        ("/top-p 1", Command(name="top-p", value=1.0)),
        ("/max-tokens 2,048", Command(name="max-tokens", value=2048)),
        ("/seed 0", Command(name="seed", value=0)),
        ("/seed OFF", Command(name="seed")),
        ("/export a b.md", Command(name="export", value="a b.md")),
        ("/RETRY", Command(name="retry")),
        ("/q", Command(name="quit")),
        ("/branch 2", Command(name="branch", value=2)),
        ("/help /temp", Command(name="help", value="temp")),
        ("/tok\n", Command(name="tokens")),
    ],
)
def test_a_command_is_understood(text: str, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("/modle", ["no command /modle", "/model?"]),
        ("/tokns", ["/tokens?"]),
        ("/zzzz", ["no command /zzzz", "/help shows all"]),
        ("/s", ["/system or /seed or /save or /search or /stats"]),
        ("/", ["/help"]),
        ("/ temp 1", ["/help"]),
        ("/usr/bin/env is a path", ["/usr/bin/env", "// sends"]),
        ("/temp", ["needs a number", "/temp NUMBER"]),
        ("/temp hot", ["0 or more", "'hot'"]),
        ("/temp -1", ["0 or more"]),
        ("/temp nan", ["a number"]),
        ("/temp inf", ["a number"]),
        ("/top-p 0", ["above 0 and at most 1"]),
        ("/top-p 1.1", ["above 0 and at most 1"]),
        ("/max-tokens 0", ["1 or more"]),
        ("/max-tokens 1.5", ["a whole number"]),
        ("/seed -1", ["0 or more, or off"]),
        ("/seed 99999999999999999999", ["a whole number"]),
        ("/seed ١٢", ["a whole number"]),
        ("/retry now", ["takes nothing", "'now'"]),
        ("/help modle", ["/model?"]),
    ],
)
def test_a_wrong_command_is_refused_with_what_to_do(text: str, parts: list[str]) -> None:
    refused = parse(text)
    assert isinstance(refused, Refused)
    for part in parts:
        assert part in refused.error


@given(st.text(max_size=60))
def test_any_text_is_a_command_or_one_printable_line(text: str) -> None:
    found = parse("/" + text)
    if isinstance(found, Refused):
        assert found.error.isprintable()
    else:
        assert found.name in BY_NAME
    cursor = len(text) // 2
    for candidate in complete(text, cursor, models=lambda _: ["m"], paths=lambda _: ["p"]):
        assert 0 <= candidate.begin <= candidate.end == cursor


def test_two_slashes_are_a_message_that_begins_with_one() -> None:
    assert is_command("/help")
    assert not is_command("//help")
    assert not is_command(" /help")
    assert message_of("//help") == "/help"
    assert message_of("help") == "help"


def names(text: str, cursor: int | None = None) -> list[Candidate]:
    return complete(
        text,
        len(text) if cursor is None else cursor,
        models=lambda begun: [name for name in ("mistral-7b", "mixtral") if begun in name],
        paths=lambda begun: [path for path in ("my file.txt", "src/", "notes") if
                             path.startswith(begun)],
    )  # fmt: skip


def applied(text: str, candidate: Candidate) -> str:
    return text[: candidate.begin] + candidate.text + text[candidate.end :]


@pytest.mark.parametrize(
    ("text", "cursor", "results"),
    [
        ("/te", 3, ["/temp "]),
        ("/RE", 3, ["/retry"]),
        ("/temp 1", 2, ["/temp emp 1", "/top-p emp 1", "/tokensemp 1"]),
        ("/model mix", 10, ["/model mixtral"]),
        ("/model ", 7, ["/model mistral-7b", "/model mixtral"]),
        ("/export no", 10, ["/export notes"]),
        ("/help te", 8, ["/help temp"]),
        ("/seed o", 7, ["/seed off"]),
        ("/temp 0", 7, []),
        ("/nothing x", 10, []),
        ("see @no", 7, ["see @notes"]),
        ("see @my and", 7, ['see @"my file.txt" and']),
        ('see @"my f', 10, ['see @"my file.txt"']),
        ("@", 1, ['@"my file.txt"', "@src/", "@notes"]),
        ("a@no", 4, []),
        ("@@no", 4, []),
        ("plain", 5, []),
    ],
)
def test_completion_puts_in_what_could_be_meant(text: str, cursor: int, results: list[str]) -> None:
    assert [applied(text, candidate) for candidate in names(text, cursor)] == results


def test_candidates_for_commands_say_what_they_do() -> None:
    assert names("/")[0].note == COMMANDS[0].does
    assert len(names("/")) == len(COMMANDS)


def test_mentions_begin_words() -> None:
    text = 'see @a.txt and @"b c.txt", not d@e.f nor @@g nor @ alone\n@h'
    assert [one.path for one in mentions(text)] == ["a.txt", "b c.txt", "h"]
    for one in mentions(text):
        assert text[one.begin : one.end] in ("@a.txt", '@"b c.txt"', "@h")
    assert mention_at("see @a b", 8) is None
    assert mention_at("@", 1) is not None
    assert quoted("a b/") == '"a b/'


def test_paths_are_completed_folders_first_and_links_are_not_looked_into(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("a")
    (tmp_path / "some.txt").write_text("a")
    (tmp_path / ".hidden").write_text("a")
    (tmp_path / "s\x1b[2J").write_text("a")
    (tmp_path / "slink").symlink_to(tmp_path / "src")
    assert complete_path("s", tmp_path) == ["src/", "slink", "some.txt"]
    assert complete_path("src/", tmp_path) == ["src/a.py"]
    assert complete_path("", tmp_path) == ["src/", "slink", "some.txt"]
    assert complete_path(".h", tmp_path) == [".hidden"]
    assert complete_path(f"{tmp_path}/so", Path("/")) == [f"{tmp_path}/some.txt"]
    for wrong in ("nowhere/", "\0", "some.txt/", "~nobody-has-this-name/"):
        assert complete_path(wrong, tmp_path) == []


def test_a_text_is_read_with_its_bytes_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfd\xc3\xa9j\xc3\xa0\r\n")
    file = read("a.txt", tmp_path)
    assert (file.text, file.n_bytes, file.is_link) == ("déjà\r\n", 11, False)
    (tmp_path / "link").symlink_to("a.txt")
    linked = read("link", tmp_path)
    assert linked.is_link
    assert linked.target == (tmp_path / "a.txt").resolve()


def test_the_limit_is_the_largest_size_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    assert read("a", tmp_path, max_bytes=10).n_bytes == 10
    with pytest.raises(AttachmentError, match="larger than 9 bytes"):
        read("a", tmp_path, max_bytes=9)


def test_what_cannot_go_along_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "nul").write_bytes(b"a\0b")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "utf16").write_bytes("text".encode("utf-16"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        ("folder", "a folder"), ("nul", "binary"), ("latin", "no UTF-8"), ("utf16", "no UTF-8"),
        ("loop", "@loop: "), ("broken", "no such file"), ("pipe", "no regular file"),
        ("missing", "no such file"), ("nul/x", "no such file"), ("/dev/zero", "no regular file"),
        ("a\0b", "no path"), ("x" * 5000, "@xxx"), ("\x1b[2J\n", "no such file"),
    ]:  # fmt: skip
        with pytest.raises(AttachmentError, match=reason) as error:
            read(path, tmp_path)
        assert str(error.value).isprintable(), path
        assert len(str(error.value)) < 200


def test_files_follow_the_message_once_each_in_fences_they_cannot_close(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("```\ncode\n````\nend")
    text, files = attached("sum up @a.md and @a.md, @@bob", lambda path: read(path, tmp_path))
    assert len(files) == 0 or {file.path for file in files} == {"a.md"}
    assert text == ("sum up @a.md and @a.md, @bob\n\na.md:\n`````\n```\ncode\n````\nend\n`````")


def test_a_message_without_files_stays_as_it_is() -> None:
    def never(path: str) -> Attachment:
        raise AssertionError(path)

    assert attached("a@b.c and @ and `@`", never) == ("a@b.c and @ and `@`", [])
