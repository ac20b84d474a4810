"""Where this program keeps what it writes for its user."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def home(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """The folder of all of it: $MLX_MISTRAL_HOME, or the platform's folder for programs' data.

    Source: the XDG Base Directory Specification, by which a relative path counts as none.
    """
    if chosen := environment.get("MLX_MISTRAL_HOME"):
        return Path(chosen).expanduser().absolute()
    if platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mlx-mistral"
    data = Path(environment.get("XDG_DATA_HOME", ""))
    return (data if data.is_absolute() else Path.home() / ".local" / "share") / "mlx-mistral"
