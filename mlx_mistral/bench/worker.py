"""Run as a script: measures the build of this program that lies in a folder.

    python -P worker.py BUILD

Everything but the measuring itself is imported from BUILD. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any, TextIO

PACKAGE = "mlx_mistral"


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    build = Path(sys.argv[1]).resolve()
    program: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        what = request.pop("do")
        try:
            if what == "load":
                program = _program(build)(**request)
                answer: Any = program.vocab_size
            elif what == "fill":
                answer = program.fill(**request)
            else:
                answer = dataclasses.asdict(program.run(**request))
        except Exception as error:
            _say(answers, error=f"{type(error).__name__}: {error}")
        else:
            _say(answers, answer=answer)


def _program(build: Path) -> Any:
    """This folder's way to drive the program, over that build's code."""
    sys.path.insert(0, str(build))
    package = __import__(PACKAGE)
    if not Path(package.__file__ or "").resolve().is_relative_to(build):
        raise ImportError(f"{PACKAGE} came from {package.__file__}")
    room = types.ModuleType(f"{PACKAGE}.bench")
    room.__path__ = [str(Path(__file__).parent)]
    sys.modules[room.__name__] = room
    from mlx_mistral.bench.ours import Ours

    return Ours


def _say(answers: TextIO, **message: Any) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
