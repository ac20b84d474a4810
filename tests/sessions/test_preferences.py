"""A file that people edit: what is in it counts, or is named with its key."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import Preferences, default_path, load_preferences, save_preferences
from mlx_mistral.sessions.preferences import MAX_BYTES

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
PREFERENCES = st.builds(
    Preferences,
    model=st.none() | TEXT,
    system=st.none() | TEXT,
    temperature=st.none() | st.floats(0, 1e8),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
    max_tokens=st.none() | st.integers(1, (1 << 31) - 1),
    seed=st.none() | st.integers(0, (1 << 63) - 1),
    cache_bits=st.none() | st.integers(2, 8),
    theme=st.none() | TEXT,
    keep_cache=st.none() | st.booleans(),
    keep_cache_gb=st.none() | st.floats(0, 1e8, exclude_min=True),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(PREFERENCES)
@example(Preferences(system='a\\n"\\"\r\n\x7f\x85\u202e\U0001f680', theme="\\"))
def test_what_is_saved_is_read_by_any_reader_of_toml(file: Path, preferences: Preferences) -> None:
    save_preferences(file, preferences)
    chosen = {key: value for key, value in asdict(preferences).items() if value is not None}
    assert tomllib.loads(file.read_bytes().decode()) == chosen
    assert load_preferences(file) == preferences


def test_without_a_file_there_are_no_preferences(file: Path) -> None:
    assert load_preferences(file) == Preferences()
    assert all(value is None for value in asdict(Preferences()).values())


def test_a_file_that_a_person_wrote_is_read(file: Path) -> None:
    file.write_text(
        '# mine\ntemperature = 1\ntop_p = 0.9 # often\nsystem = """\nBe brief.\nBe kind."""\n'
    )
    assert load_preferences(file) == Preferences(
        temperature=1, top_p=0.9, system="Be brief.\nBe kind."
    )


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("temperatur = 1", "'temperatur' is no setting"),
        ("[chat]\nseed = 1", "'chat' is no setting"),
        ('"\\u001b[2J" = 1', "'\\x1b[2J' is no setting"),
        ("temperature = -0.1", "temperature takes"),
        ("temperature = nan", "temperature takes"),
        ("temperature = inf", "temperature takes"),
        ("temperature = true", "temperature takes"),
        ("temperature = '0.5'", "temperature takes"),
        ("temperature = 1979-05-27", "temperature takes"),
        ("top_p = 0", "top_p takes"),
        ("top_p = 1.1", "top_p takes"),
        ("max_tokens = 0", "max_tokens takes"),
        ("max_tokens = 2147483648", "max_tokens takes"),
        ("max_tokens = 10.0", "max_tokens takes"),
        ("max_tokens = true", "max_tokens takes"),
        ("seed = -1", "seed takes"),
        ("seed = 9223372036854775808", "seed takes"),
        ("cache_bits = 1", "cache_bits takes"),
        ("cache_bits = 9", "cache_bits takes"),
        ("theme = 5", "theme takes"),
        ("system = ['a']", "system takes"),
        ("model.name = 'demo'", "model takes"),
        (f"theme = '{'x' * 101}'", "theme takes"),
        ("seed = ", "no TOML"),
        ("seed = 1\nseed = 2", "no TOML"),
        ("seed = " + "[" * 5000, "no TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(file: Path, line: str, key: str) -> None:
    file.write_text(line)
    with pytest.raises(SessionError) as raised:
        load_preferences(file)
    assert str(raised.value).startswith(str(file))
    assert key in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_text_is_refused(file: Path) -> None:
    file.write_bytes(b'theme = "\xff"')
    with pytest.raises(SessionError, match="no TOML"):
        load_preferences(file)
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SessionError, match="more than"):
        load_preferences(file)
    with pytest.raises(SessionError, match="cannot be read"):
        load_preferences(file.parent)


def test_what_cannot_be_read_back_is_not_saved(file: Path) -> None:
    save_preferences(file, Preferences(seed=1))
    for wrong in (
        Preferences(temperature=float("nan")),
        Preferences(top_p=2),
        Preferences(seed=-1),
    ):
        with pytest.raises(SessionError):
            save_preferences(file, wrong)
    assert load_preferences(file) == Preferences(seed=1)


def test_half_characters_are_saved_as_whole_ones(file: Path) -> None:
    save_preferences(file, Preferences(system="a\ud800b"))
    assert load_preferences(file).system == "a\ufffdb"


def test_every_key_is_checked(file: Path) -> None:
    for field in fields(Preferences):
        file.write_text(f"{field.name} = [1]")
        with pytest.raises(SessionError, match=f"{field.name} takes"):
            load_preferences(file)


def test_they_lie_beside_the_conversations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path))
    assert default_path() == tmp_path / "settings.toml"
