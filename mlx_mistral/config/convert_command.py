"""A command line that makes a smaller model, for advice."""

from __future__ import annotations

import shlex
from pathlib import PurePath


def convert_command(model: str, flag: str, value: str) -> str:
    """To be copied into a shell. The new folder is named after the model and what is done to it."""
    made = f"{value}bit" if flag == "--bits" else value
    name = PurePath(model).name.replace("@", "-") or "model"
    return shlex.join(["mlx-mistral", "convert", model, f"{name}-{made}", flag, value])
