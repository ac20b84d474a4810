"""Tokenizer folders made of the files that mistral-common ships, and files derived from them.

No Tekken file newer than v3 ships. The derived ones keep the first tokens of the real vocabulary
and set the version and the control tokens that the version needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import mistral_common
import pytest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mlx_mistral.text import Tokenizer, load_tokenizer

SHIPPED = Path(mistral_common.__file__).parent / "data"
SHIPPED_FILES = {
    "v1": ("tokenizer.model.v1", "tokenizer.model"),
    "v2": ("mistral_instruct_tokenizer_240216.model.v2", "tokenizer.model.v2"),
    "v3": ("mistral_instruct_tokenizer_240323.model.v3", "tokenizer.model.v3"),
    "v7": ("mistral_instruct_tokenizer_241114.model.v7", "tokenizer.model.v7"),
    "v7m1": ("mistral_instruct_tokenizer_241114.model.v7m1", "tokenizer.model.v7m1"),
    "v3-tekken": ("tekken_240718.json", "tekken.json"),
    "v3-tekken-image": ("tekken_240911.json", "tekken.json"),
}
DERIVED_VERSIONS = ("v7", "v11", "v13", "v15")
NAMES = (*SHIPPED_FILES, *(f"{version}-tekken" for version in DERIVED_VERSIONS))

_V7_CONTROL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
_LATER_CONTROL = {
    32: "[ARGS]",
    33: "[CALL_ID]",
    34: "[THINK]",
    35: "[/THINK]",
    36: "[MODEL_SETTINGS]",
    37: "[/MODEL_SETTINGS]",
}


def derived_tekken(shipped: dict[str, object], version: str, *, tokens: int = 3000) -> dict:
    """A Tekken file of `version` with `tokens` of the shipped file's tokens and 1000 controls."""
    names = list(_V7_CONTROL) + [_LATER_CONTROL.get(i, f"<SPECIAL_{i}>") for i in range(20, 40)]
    file = {
        "config": {
            **shipped["config"],
            "version": version,
            "default_vocab_size": tokens + 1000,
            "default_num_special_tokens": 1000,
        },
        "vocab": shipped["vocab"][: tokens + 50],
        "special_tokens": [
            {"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)
        ],
    }
    if version == "v15":
        file["model_settings_builder"] = {
            "reasoning_effort": {
                "type": "enum",
                "values": ["none", "high"],
                "accepts_none": True,
                "default": "none",
            }
        }
    return file


@pytest.fixture(scope="session")
def shipped_tekken() -> dict[str, object]:
    return json.loads((SHIPPED / "tekken_240718.json").read_bytes())


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory, shipped_tekken) -> Callable[[str], Path]:
    """A folder with one tokenizer file, by the names of `NAMES`."""

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        if name in SHIPPED_FILES:
            source, target = SHIPPED_FILES[name]
            (folder / target).symlink_to(SHIPPED / source)
        else:
            file = derived_tekken(shipped_tekken, name.removesuffix("-tekken"))
            (folder / "tekken.json").write_text(json.dumps(file))
        return folder

    return make


@pytest.fixture(scope="session")
def ours(folder_of) -> Callable[[str], Tokenizer]:
    return cache(lambda name: load_tokenizer(folder_of(name)))


@pytest.fixture(scope="session")
def theirs(folder_of) -> Callable[[str], MistralTokenizer]:
    """mistral-common's own tokenizer of the same file."""
    return cache(lambda name: MistralTokenizer.from_file(next(folder_of(name).iterdir())))


@pytest.fixture
def copy_of(tmp_path) -> Callable[[str, str], Path]:
    """A folder with a shipped file under another name."""

    def make(name: str, target: str) -> Path:
        shutil.copyfile(SHIPPED / SHIPPED_FILES[name][0], tmp_path / target)
        return tmp_path

    return make


def pytest_generate_tests(metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", NAMES)
