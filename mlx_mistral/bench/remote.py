"""Another checkout or build of this program, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_mistral.errors import MlxMistralError

from .program import Trial

PACKAGE = "mlx_mistral"


def is_build(path: Path) -> bool:
    """Whether a folder holds this program rather than a model."""
    return (path / PACKAGE / "__init__.py").is_file()


class Remote:
    """Speaks to `worker.py` in lines of JSON; one program runs at a time.

    Raises: MlxMistralError: that build cannot be started, or fails later.
    """

    held_bytes = 0
    """In this process."""

    def __init__(
        self, build: Path, folder: str, *, dtype: str | None = None, memory: int | None = None
    ) -> None:
        self.name = str(build)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(build)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        try:
            self.vocab_size: int = self._ask("load", folder=str(folder), dtype=dtype, memory=memory)
        except BaseException:
            self.close()
            raise

    def fill(self, ids: Sequence[int], *, drawn: bool = False) -> None:
        self._ask("fill", ids=list(ids), drawn=drawn)

    def run(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Trial:
        return Trial(**self._ask("run", prompts=[list(p) for p in prompts], gen_tokens=gen_tokens))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, what: str, **arguments: Any) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            process.stdin.flush()
        except OSError:
            pass  # it has ended; what it said last tells more
        answer = process.stdout.readline()
        try:
            said = json.loads(answer)
            failed = said.get("error")
        except (ValueError, AttributeError):
            failed = "it ended without a word"
        if failed:
            raise MlxMistralError(
                f"the build cannot do this ({failed}), {self.name}; run its own bench to see why"
            )
        return said["answer"]
