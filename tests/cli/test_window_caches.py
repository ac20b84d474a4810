"""Whether and within what the window keeps what was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_mistral.cli.window import _caches
from mlx_mistral.sessions import Preferences


def test_conversations_are_kept_as_they_were_read_unless_told_not_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path))
    assert _caches(Preferences(keep_cache=False)) is None
    for preferences in (Preferences(), Preferences(keep_cache=True, keep_cache_gb=0.5)):
        store = _caches(preferences)
        assert store is not None
        assert store.folder.parent == tmp_path
        assert store.limit_bytes == (preferences.keep_cache_gb and 500_000_000)
    assert list(tmp_path.iterdir()) == []
