"""The models that the window's list shows: those on this machine, and those of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mistral.config.sizes import size_text as bytes_text
from mlx_mistral.errors import MlxMistralError

if TYPE_CHECKING:
    from mlx_mistral.checkpoint import Headers
    from mlx_mistral.memory import MemoryPlan, ModelNeeds
    from mlx_mistral.memory.device import Device
    from mlx_mistral.memory.machine import Machine
    from mlx_mistral.tui.pickers.model_rows import ModelRow

TIGHT_SHARE = 0.9
"""More of the budget than this leaves the system little."""


class KnownModels:
    """Fulfils the window's `ModelProvider`, from headers and known dimensions alone."""

    def __init__(self, context: int | None = None) -> None:
        """context: for which a model has to fit; None: the one that `fit` plans for."""
        self._context = context

    def rows(self) -> Sequence[ModelRow]:
        """The demo, what the Hub's cache holds, then what of the catalog could be pulled.

        Asks the Hub nothing.
        """
        from mlx_mistral.checkpoint.catalog import ALIASES
        from mlx_mistral.checkpoint.hub_cache import list_cached
        from mlx_mistral.demo import model_path
        from mlx_mistral.memory.device import Device

        device = Device.here()
        rows = [self._folder("demo", Path(model_path()), device)]
        cached = list_cached()
        for model in cached:
            if model.is_complete:
                name = model.repo if model.revision == "main" else f"{model.repo}@{model.revision}"
                rows.append(self._folder(name, model.path, device))
        listed = {model.repo for model in cached if model.is_complete}
        for alias, repo in ALIASES.items():
            if repo not in listed:
                listed.add(repo)
                rows.append(self._of_catalog(alias, repo, device))
        rows += [
            _row(model.repo, is_cached=False, detail="partly here: p goes on with it")
            for model in cached
            if model.repo not in listed
        ]
        return rows

    def look(self, name: str) -> ModelRow:
        """What a model's headers tell, which are asked of the Hub where it is not here.

        Raises: MlxMistralError: there is no such model, or no connection.
        """
        from mlx_mistral.checkpoint.hub_headers import read_model
        from mlx_mistral.memory.device import Device

        return self._told(name, read_model(name), Device.here(), is_cached=False)

    def pull(self, name: str, report: Callable[[int, int], bool]) -> None:
        """Fetches a model. Raises: MlxMistralError: it cannot be had, or `report` ended it."""
        from mlx_mistral.checkpoint import resolve

        resolve(name, report=report)

    def _folder(self, name: str, folder: Path, device: Device) -> ModelRow:
        """What the headers tell; where they cannot be read, the name and why."""
        from mlx_mistral.checkpoint.headers import read_folder

        try:
            return self._told(name, read_folder(folder), device, is_cached=True)
        except MlxMistralError as error:
            return _row(name, is_cached=True, detail=str(error))

    def _told(self, name: str, headers: Headers, device: Device, *, is_cached: bool) -> ModelRow:
        from mlx_mistral.memory import ModelNeeds

        needs = ModelNeeds.of(headers, dtype=device.dtype, scratch=device.scratch)
        stored, count = headers.weight_bytes, headers.parameter_count
        return self._planned(name, needs, stored, count, device, is_cached=is_cached)

    def _of_catalog(self, alias: str, repo: str, device: Device) -> ModelRow:
        from mlx_mistral.checkpoint.catalog_shapes import SHAPES
        from mlx_mistral.memory import ModelNeeds

        shape = SHAPES.get(repo)
        if shape is None:
            return _row(alias, is_cached=False)
        needs = ModelNeeds.of_unquantized(shape.config, dtype=device.dtype, scratch=device.scratch)
        stored, count = shape.stored_bytes, shape.parameters
        return self._planned(alias, needs, stored, count, device, is_cached=False)

    def _planned(
        self,
        name: str,
        needs: ModelNeeds,
        stored_bytes: int,
        n_weights: int,
        device: Device,
        *,
        is_cached: bool,
    ) -> ModelRow:
        from mlx_mistral.memory import default_context
        from mlx_mistral.tui.pickers.model_rows import ModelRow

        context = self._context or default_context(needs.config)
        fits, is_tight, detail = None, False, ""
        try:
            if device.machine is not None:
                plan = needs.plan(context, device.machine.budget_bytes)
                fits, is_tight = plan.fits, plan.fits and _is_tight(plan, device.machine)
                detail = _detail(plan, needs, device.machine)
        except MlxMistralError as error:
            detail = str(error)
        speed = needs.speed(device.chip, 0)
        return ModelRow(
            name=name,
            is_cached=is_cached,
            size_bytes=stored_bytes,
            bits=8 * stored_bytes / max(1, n_weights),
            fits=fits,
            is_tight=is_tight,
            decode_tps=speed.tps if speed else None,
            detail=detail,
        )


def _row(name: str, *, is_cached: bool, detail: str = "") -> ModelRow:
    from mlx_mistral.tui.pickers.model_rows import ModelRow

    return ModelRow(name=name, is_cached=is_cached, detail=detail)


def _is_tight(plan: MemoryPlan, machine: Machine) -> bool:
    """Whether it fits only once other programs are closed, or nearly not."""
    free = machine.budget_bytes if machine.free_bytes is None else machine.free_bytes
    return plan.total_bytes > min(free, TIGHT_SHARE * machine.budget_bytes)


def _detail(plan: MemoryPlan, needs: ModelNeeds, machine: Machine) -> str:
    """The sum, and what would fit where it does not; 72 cells at most."""
    text = (
        f"needs {bytes_text(plan.total_bytes)} of {bytes_text(plan.budget_bytes)} "
        f"at {plan.context:,} tokens"
    )
    if plan.fits:
        if machine.free_bytes is not None and plan.total_bytes > machine.free_bytes:
            return f"{text}; {bytes_text(machine.free_bytes)} free now"
        return f"{text}, cache {bytes_text(plan.cache_bytes)} of it"
    longest = needs.max_context(plan.budget_bytes)
    if longest:
        return f"{text}; {longest:,} would fit"
    bits = needs.fitting_bits(plan.context, plan.budget_bytes)
    return f"{text}; fits in {bits} bits (convert)" if bits is not None else text
