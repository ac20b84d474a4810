"""The best recipe for which weights, cache and workspace fit a budget together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_mistral.backend.select import active_backend
from mlx_mistral.checkpoint.dtype import dtype_name, resolve_dtype
from mlx_mistral.checkpoint.parameters import Parameter
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.files.tensor_info import DTYPE_BITS, FLOATS
from mlx_mistral.memory import (
    MemoryPlan,
    default_context,
    joining_bytes,
    matrix_bytes_in_memory,
    max_context,
    plan_memory,
)

from .plan import Matrix, Plan, planned_bytes, tensors_of
from .recipes import named, parameters_for, plain
from .stored import SPELLED

LADDER = (
    ("uniform", 8), ("uniform", 6), ("uniform", 5), ("lifted_4", None), ("uniform", 4),
    ("lifted_3", None), ("uniform", 3), ("lifted_2", None), ("uniform", 2),
)  # fmt: skip
"""From the best to the smallest; before them comes the model as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a model has to live in, on this machine with its default activations."""

    config: ModelConfig
    parameters: Mapping[str, Parameter]
    budget_bytes: int
    context: int
    activations: str
    """Their dtype, by its name in MLX."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, budget_bytes: int, context: int | None) -> Room:
        """context: by default what the model was made for, at most 32768."""
        config = checkpoint.config
        return cls(
            config=config,
            parameters=checkpoint.parameters,
            budget_bytes=budget_bytes,
            context=context or default_context(config),
            activations=dtype_name(resolve_dtype(None)),
        )

    @property
    def activation_bytes(self) -> int:
        return DTYPE_BITS[SPELLED[self.activations]] // 8

    def needs(self, plan: Plan) -> MemoryPlan:
        """The sum for a model that is converted by this plan, and then loaded and run."""
        return plan_memory(
            self.config,
            context=self.context,
            budget_bytes=self.budget_bytes,
            **self._weights(plan),
        )

    def max_context(self, plan: Plan) -> int:
        """The longest context at which it fits; 0 where none does."""
        return max_context(self.config, budget_bytes=self.budget_bytes, **self._weights(plan))

    def _weights(self, plan: Plan) -> dict[str, Any]:
        held = {
            name: matrix_bytes_in_memory(
                parameter.shape,
                plan.formats.get(name.removesuffix(".weight")),
                self.activation_bytes,
            )
            for name, parameter in self.parameters.items()
        }
        # Loading casts one tensor at a time, where it is stored in another dtype.
        cast = max(
            tensor.nbytes if tensor.dtype in FLOATS - {SPELLED[self.activations]} else 0
            for made in tensors_of(self.parameters, plan).values()
            for tensor in made
        )
        return {
            "weights_bytes": sum(held.values()),
            "loading_bytes": max(cast, joining_bytes(held)),
            "activation_bytes": self.activation_bytes,
            "scratch": active_backend().scratch,
        }


def best_named(matrices: Sequence[Matrix], room: Room, group_size: int | None, dtype: str) -> Plan:
    """The first of the ladder that fits, with the reason.

    Raises: MemoryBudgetError: none does; says the nearest that would.
    """
    larger = ""
    plan = None
    for plan in _ladder(matrices, room.config.n_layers, group_size, dtype):
        needs = room.needs(plan)
        if needs.fits:
            return replace(plan, why=explain(needs) + larger)
        larger = f"; with {describe(plan)} it would need {_gb(needs.total_bytes)}"
    assert plan is not None
    raise refusal(plan, room)


def checked(plan: Plan, room: Room) -> Plan:
    """A plan that was chosen otherwise. Raises: MemoryBudgetError: it does not fit."""
    needs = room.needs(plan)
    if not needs.fits:
        raise refusal(plan, room)
    return replace(plan, why=explain(needs))


def best_measured(room: Room, choose: Callable[[int], Plan], smallest: Plan) -> Plan:
    """The measured recipe for the bytes that cache and workspace leave to the weights.

    choose: makes the plan for a number of bytes in the files. In memory scales may be wider than
    there, so bytes are taken off until the weights fit as they are loaded.
    Raises: MemoryBudgetError: even `smallest`, the plan of the fewest bits, does not fit.
    """
    least = room.needs(smallest)
    if not least.fits:
        raise refusal(smallest, room)
    n_bytes = room.budget_bytes - least.cache_bytes - least.workspace_bytes
    fewest = planned_bytes(room.parameters, smallest)
    while n_bytes > fewest:
        plan = choose(n_bytes)
        needs = room.needs(plan)
        if needs.fits:
            return replace(plan, why=explain(needs))
        n_bytes -= max(needs.total_bytes - room.budget_bytes, n_bytes // 1000)
    return replace(smallest, why=explain(least))


def refusal(plan: Plan, room: Room) -> MemoryBudgetError:
    """Names what is missing, and what would do."""
    needs, context = room.needs(plan), room.max_context(plan)
    shorter = f"--context {context} would fit, or " if context else ""
    return MemoryBudgetError(
        f"with {describe(plan)} the model needs {_gb(needs.total_bytes)} at a context of "
        f"{room.context:,} tokens ({_sum(needs)}), more than {_gb(room.budget_bytes)}; {shorter}"
        f"--fit {_round_up(needs.total_bytes)}"
    )


def describe(plan: Plan) -> str:
    bits = sorted({params.bits for params in plan.formats.values() if params})
    if plan.recipe == "uniform" and bits:
        return f"{bits[0]} bits"
    return plan.recipe


def explain(needs: MemoryPlan) -> str:
    return (
        f"{_sum(needs)} make {_gb(needs.total_bytes)} of {_gb(needs.budget_bytes)} at a context "
        f"of {needs.context:,} tokens"
    )


def _ladder(
    matrices: Sequence[Matrix], n_layers: int, group_size: int | None, dtype: str
) -> Iterator[Plan]:
    yield plain(matrices, dtype)
    for recipe, bits in LADDER:
        yield named(recipe, matrices, parameters_for("affine", bits, group_size), n_layers, dtype)


def _sum(needs: MemoryPlan) -> str:
    return (
        f"weights {_gb(needs.weights_bytes)}, cache {_gb(needs.cache_bytes)} and workspace "
        f"{_gb(needs.workspace_bytes)}"
    )


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"


def _round_up(n_bytes: int) -> str:
    """A size as `--fit` takes it, not below the number."""
    if n_bytes >= 1e9:
        return f"{-(-n_bytes // 10**8) / 10:.1f}GB"
    return f"{-(-n_bytes // 10**5) / 10:.1f}MB"
