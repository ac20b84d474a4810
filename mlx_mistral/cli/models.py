"""`models`: what is in the Hub's cache; fetch, remove, find."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from . import options
from .progress_bar import ProgressBar
from .terminal import note, write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.checkpoint.hub_cache import CachedModel


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands, "models", does="list the models in the cache, fetch or remove them", run=list_all
    )
    options.add_output(parser)
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    for name, does, run in (
        ("pull", "download a model", pull),
        ("rm", "delete a model from the cache", remove),
        ("path", "print where a model lies", path),
    ):
        action = options.new_command(actions, name, does=does, run=run)
        action.add_argument("model", metavar="MODEL", help="Hub repository or alias")
        options.add_output(action)


def list_all(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint.hub_cache import list_cached

    found = list_cached()
    if args.json:
        write_json({"models": [_to_json(model) for model in found]})
        return
    width = max((len(_name(model)) for model in found), default=0)
    write_lines(
        [
            f"{_name(model):<{width}}  {model.nbytes / 1e9:>8.2f} GB  {model.layout}"
            f"{'' if model.is_complete else '  incomplete: `models pull` resumes'}"
            for model in found
        ]
    )
    if not found:
        note("the cache holds no model; `mlx-mistral models pull mistral-7b` fetches one",
             quiet=args.quiet)  # fmt: skip


def pull(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint import resolve

    bar = ProgressBar(quiet=args.quiet)
    try:
        folder = resolve(args.model, report=lambda done, total: bar.update(done, total, args.model))
    finally:
        bar.clear()
    _write(args, {"model": args.model, "path": str(folder)}, str(folder))


def remove(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint.hub_cache import remove as remove_cached

    freed = remove_cached(args.model)
    if args.json:
        write_json({"model": args.model, "freed_bytes": freed})
    else:
        note(f"{args.model} is gone; {freed / 1e9:.2f} GB are free again", quiet=args.quiet)


def path(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint.hub_cache import cached_path

    folder = cached_path(args.model)
    _write(args, {"model": args.model, "path": str(folder)}, str(folder))


def _write(args: argparse.Namespace, data: dict[str, str], line: str) -> None:
    if args.json:
        write_json(data)
    else:
        write_lines([line])


def _name(model: CachedModel) -> str:
    return model.repo if model.revision == "main" else f"{model.repo}@{model.revision}"


def _to_json(model: CachedModel) -> dict[str, object]:
    return dataclasses.asdict(model) | {"path": str(model.path)}
