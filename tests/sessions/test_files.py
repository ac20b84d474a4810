"""Where files lie, and that they are whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import home, write_whole

ME = Path.home()


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        ({}, "linux", ME / ".local/share/mlx-mistral"),
        ({"XDG_DATA_HOME": "/data"}, "linux", Path("/data/mlx-mistral")),
        ({"XDG_DATA_HOME": "data"}, "linux", ME / ".local/share/mlx-mistral"),
        ({"XDG_DATA_HOME": ""}, "linux", ME / ".local/share/mlx-mistral"),
        ({"XDG_DATA_HOME": "/data"}, "darwin", ME / "Library/Application Support/mlx-mistral"),
        ({"MLX_MISTRAL_HOME": "/a", "XDG_DATA_HOME": "/data"}, "linux", Path("/a")),
        ({"MLX_MISTRAL_HOME": "/a"}, "darwin", Path("/a")),
        ({"MLX_MISTRAL_HOME": "~/a"}, "linux", ME / "a"),
        ({"MLX_MISTRAL_HOME": ""}, "darwin", ME / "Library/Application Support/mlx-mistral"),
        ({"MLX_MISTRAL_HOME": "a"}, "linux", Path.cwd() / "a"),
    ],
)
def test_the_folder_is_the_platforms_or_the_chosen_one(
    environment: dict[str, str], platform: str, folder: Path
) -> None:
    assert home(environment, platform) == folder


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in ("long é\n" * 100, "short\r\n"):
        write_whole(path, text)
        assert path.read_bytes() == text.encode()
    assert [file.name for file in path.parent.iterdir()] == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_what_was_there_stays_where_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, fails, full)
    with pytest.raises(SessionError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_place_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SessionError, match="cannot be written"):
        write_whole(tmp_path / "file" / "below", "new")
