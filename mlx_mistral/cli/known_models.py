"""The models that the window's list shows: those on this machine, and those of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mistral.errors import MlxMistralError

if TYPE_CHECKING:
    from mlx_mistral.tui.pickers.model_rows import ModelRow


class KnownModels:
    """Fulfils the window's `ModelProvider`, from headers alone."""

    def __init__(self, context: int | None = None) -> None:
        """context: for which a model has to fit; None: the one that `fit` plans for."""
        self._context = context

    def rows(self) -> Sequence[ModelRow]:
        """The demo, what the Hub's cache holds, then the aliases that could be pulled."""
        from mlx_mistral.checkpoint.catalog import ALIASES
        from mlx_mistral.checkpoint.hub_cache import list_cached
        from mlx_mistral.demo import model_path
        from mlx_mistral.tui.pickers.model_rows import ModelRow

        rows = [self._row("demo", Path(model_path()))]
        cached = [model for model in list_cached() if model.is_complete]
        for model in cached:
            name = model.repo if model.revision == "main" else f"{model.repo}@{model.revision}"
            rows.append(self._row(name, model.path))
        here = {model.repo for model in cached}
        return rows + [
            ModelRow(name=alias, is_cached=False)
            for alias, repo in ALIASES.items()
            if repo not in here
        ]

    def pull(self, name: str, report: Callable[[int, int], bool]) -> None:
        """Fetches a model. Raises: MlxMistralError: it cannot be had."""
        from mlx_mistral.checkpoint import resolve

        if report(0, 0):
            resolve(name, progress=False)

    def _row(self, name: str, folder: Path) -> ModelRow:
        """What the headers tell; where they cannot be read, the name alone."""
        from mlx_mistral.checkpoint.dtype import resolve_dtype
        from mlx_mistral.checkpoint.headers import read_folder
        from mlx_mistral.memory import default_context, plan_memory, weights_in_memory
        from mlx_mistral.memory.machine import this_machine
        from mlx_mistral.tui.pickers.model_rows import ModelRow

        try:
            headers = read_folder(folder)
            size = resolve_dtype(None).size
            plan = plan_memory(
                headers.config,
                weights_bytes=weights_in_memory(headers.parameters, size),
                context=self._context or default_context(headers.config),
                budget_bytes=this_machine().budget_bytes,
                activation_bytes=size,
            )
        except MlxMistralError:
            return ModelRow(name=name, is_cached=True)
        return ModelRow(
            name=name,
            is_cached=True,
            size_bytes=headers.weight_bytes,
            bits=8 * headers.weight_bytes / max(1, headers.parameter_count),
            fits=plan.fits,
        )
