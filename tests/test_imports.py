"""Which way imports run: a room knows only the rooms before it, inside functions as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_mistral

PACKAGE = Path(mlx_mistral.__file__).parent
ROOMS = (
    "errors", "token_ids", "files", "config", "cache", "backend", "model", "checkpoint", "text",
    "tuning",
    "memory", "generation", "streaming", "evaluation", "completion", "batch_completion", "chat",
    "loading", "sessions", "prompt_cache", "live", "bench", "doctor", "convert",
    "tui", "cli",
)  # fmt: skip
"""In the order of the floor plan: each may import those to its left."""

LATE_EXCEPTIONS = {
    # `demo` is a name of a model, so the room that finds models asks for its folder.
    ("checkpoint.model_name", "demo"),
}
"""Imports against the order, allowed inside functions."""

OUTSIDE_THE_ORDER = ("demo",)
"""The bundled model's recipe drives every room, as a user of the package would."""

MAPPED = ("convert", "tui")
"""Folders at the top of a tree that are installed inside the package."""

COMMAND_LINE_ALONE = ("convert", "tui", "fit", "bench", "doctor")
PROVING = ("doctor", "bench"), ("doctor", "demo")
"""The checks of a machine measure as `bench` does, with the bundled model."""
HEAVY = ("mlx", "textual", "transformers", "mistral_common", "tokenizers", "huggingface_hub")


def modules() -> list[Path]:
    folders = [PACKAGE, *map(home, MAPPED)]
    found = [path for folder in folders for path in folder.rglob("*.py")]
    return sorted({path for path in found if "__pycache__" not in path.parts})


def home(mapped: str) -> Path:
    """Where a folder lies that is installed inside the package: there, or beside it in a tree."""
    installed = PACKAGE / mapped
    return installed if installed.is_dir() else PACKAGE.parent / mapped


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def short(module: str) -> str:
    return module.removeprefix("mlx_mistral.")


def dotted(path: Path) -> str:
    base = PACKAGE if path.is_relative_to(PACKAGE) else PACKAGE.parent
    parts = ("mlx_mistral", *path.relative_to(base).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so when it is loaded itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_typing(node)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node not in later
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            yield base, node not in later
            if base == "mlx_mistral":
                for name in node.names:
                    yield f"{base}.{home_of(name.name)}", node not in later


def home_of(name: str) -> str:
    """The room that a name of the package comes from; a public name counts as its room."""
    if name in mlx_mistral.__all__:
        return getattr(mlx_mistral, name).__module__.split(".")[1]
    return "" if name.startswith("__") else name


def is_typing(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = dotted(path).split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def ours(path: Path) -> Iterator[tuple[str, bool]]:
    for module, at_load in imports_of(path):
        if module == "mlx_mistral" or module.startswith("mlx_mistral."):
            yield module, at_load


def ids(path: Path) -> str:
    return dotted(path)


def in_the_order() -> list[Path]:
    return [path for path in modules() if room_of(dotted(path)) not in OUTSIDE_THE_ORDER]


@pytest.mark.parametrize("path", in_the_order(), ids=ids)
def test_a_room_imports_only_rooms_before_it(path: Path) -> None:
    room = room_of(dotted(path))
    for module, at_load in ours(path):
        other = room_of(module)
        if other in ("", room) or (room in ("", "__main__") and not at_load):
            continue
        if not at_load and (short(dotted(path)), short(module)) in LATE_EXCEPTIONS:
            continue
        if room == "cli" and not at_load and other in (*COMMAND_LINE_ALONE, "demo"):
            continue
        if (room, other) in PROVING:
            continue
        if room == "__main__":
            assert other == "cli"
            continue
        assert other in ROOMS, f"{dotted(path)} imports {module}, a room that no plan names"
        assert room in ROOMS, f"{dotted(path)} stands in no room of the plan"
        assert ROOMS.index(other) < ROOMS.index(room), f"{dotted(path)} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=ids)
def test_only_the_command_line_reaches_its_programs(path: Path) -> None:
    for module, at_load in ours(path):
        rooms = room_of(dotted(path)), room_of(module)
        if rooms in PROVING:
            continue
        if room_of(module) in COMMAND_LINE_ALONE and rooms[0] != rooms[1]:
            assert room_of(dotted(path)) == "cli"
            assert not at_load, f"{dotted(path)} imports {module} before it is needed"


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("errors", HEAVY),
        ("config", HEAVY),
        ("cache", ("mlx_mistral.text", *HEAVY[1:])),
        ("model", ("os", "io", "pathlib", "shutil", "tempfile", *HEAVY[1:])),
        ("checkpoint", ("pickle", "torch", "mistral_common")),
        ("text", ("mlx", "textual", "transformers")),
        ("generation", ("mistral_common", "tokenizers", "transformers", "textual")),
        ("sessions", HEAVY),
        ("tui", ("mlx", *HEAVY[2:])),
        ("cli", ("mlx", "mistral_common", "tokenizers", "transformers")),
    ],
)
def test_a_room_keeps_to_its_own_libraries(room: str, forbidden: tuple[str, ...]) -> None:
    for path in modules():
        if room_of(dotted(path)) == room:
            for module, _ in imports_of(path):
                used = {module, module.split(".")[0]}
                assert not used & set(forbidden), f"{dotted(path)} imports {module}"


def test_model_opens_no_file() -> None:
    for path in modules():
        if room_of(dotted(path)) in ("model", "config"):
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "open"]


@pytest.mark.parametrize(
    "statement",
    [
        "import mlx_mistral",
        "import mlx_mistral; dir(mlx_mistral)",
        "from mlx_mistral import ModelConfig",
        "from mlx_mistral.cli.main import main; main(['--help'])",
        "from mlx_mistral.cli.main import main; main(['--version'])",
        "from mlx_mistral.cli.main import main; main(['generate', '--help'])",
    ],
)
def test_what_only_looks_around_loads_nothing_heavy(statement: str) -> None:
    wrapped = f"""
import sys
try:
    {statement}
except SystemExit as end:
    assert not end.code, end.code
loaded = {{name.split(".")[0] for name in sys.modules}}
sys.exit(", ".join(sorted(loaded & {set(HEAVY)!r})) or 0)
"""
    done = subprocess.run([sys.executable, "-c", wrapped], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_is_loaded_without_the_library_of_the_hub() -> None:
    statement = (
        "import sys; from mlx_mistral.loading import load; load('demo'); "
        "sys.exit('huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", statement], check=False).returncode == 0


def test_a_reply_loads_no_room_or_library_that_it_does_not_use() -> None:
    unused = ("asyncio", "sqlite3", "textual", "transformers", "tokenizers", "huggingface_hub",
              *(f"mlx_mistral.{room}" for room in ("tui", "convert", "bench", "live", "sessions",
                "prompt_cache", "streaming", "evaluation", "chat", "batch_completion",
                "checkpoint.hub_download", "cli.bench_sweep", "text.hugging_face")))  # fmt: skip
    command = ["generate", "demo", "-p", "Hi", "--max-tokens", "1", "--quiet"]
    statement = (
        f"import sys; from mlx_mistral.cli.main import main; assert main({command}) == 0; "
        f"sys.exit(', '.join(name for name in {unused} if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_window_loads_no_mlx() -> None:
    statement = "import sys, mlx_mistral.tui.window; sys.exit('mlx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", statement], check=False).returncode == 0


def test_the_backend_alone_asks_mlx_for_its_device() -> None:
    for path in modules():
        if dotted(path).startswith("mlx_mistral.backend"):
            continue
        text = path.read_text(encoding="utf-8")
        for question in ("mx.cpu", "mx.gpu", "default_device"):
            assert question not in text, f"{dotted(path)} has {question}; ask backend/device.py"
