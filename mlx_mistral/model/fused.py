"""Linear maps of one input computed as one: q, k and v; gate and up.

Their weights lie row after row in one array, of which the named modules' own parameters are
views: nothing is stored twice, and whoever looks for `q_proj.weight` finds it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .layers import Linear, QuantizedLinear

FUSED = (nn.Linear, nn.QuantizedLinear, Linear, QuantizedLinear)


class FusedLinear:
    """Several `nn.Linear` or `nn.QuantizedLinear` of one input and one stored form, as one.

    The modules' weights become views here, and memory holds them twice until then.
    A module that is replaced, or given other weights, is seen by `stands_for`; a write into
    an array that stays the same object (`weight[0] = 1`) is not.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """Raises: ValueError: the modules are not alike."""
        if not alike(modules):
            raise ValueError("these modules have no common form; leave them as they are")
        self._modules = tuple(modules)
        self._all = copy.copy(modules[0])
        self._ends: list[int] = []
        for module in modules[:-1]:
            self._ends.append((self._ends or [0])[-1] + module["weight"].shape[0])
        for field in _fields(modules[0]):
            rows = mx.concatenate([module[field] for module in modules])
            mx.eval(rows)
            self._all[field] = rows
            views = mx.split(rows, self._ends)
            mx.eval(views)
            for module, view in zip(modules, views, strict=True):
                module[field] = view
        self._views = [(m, [(field, m[field]) for field in _fields(m)]) for m in modules]

    def __call__(self, x: mx.array) -> mx.array:
        """The outputs one after the other. Shapes: (..., in) -> (..., sum of outs)."""
        out: mx.array = self._all(x)
        return out

    def split(self, x: mx.array) -> list[mx.array]:
        """The output of each. Shapes: (..., in) -> (..., out) each."""
        parts: Any = mx.split(self(x), self._ends, axis=-1)
        return list(parts)

    def stands_for(self, modules: Sequence[nn.Module]) -> bool:
        """Whether these are the modules, with the weights that they had."""
        for module, (own, views) in zip(modules, self._views, strict=True):
            if module is not own:
                return False
            for field, view in views:
                if module[field] is not view:
                    return False
        return True


def alike(modules: Sequence[nn.Module]) -> bool:
    """Whether linear maps can be one: of the same input, stored in the same form, no bias."""
    return len({_form(module) for module in modules} | {None}) == 2


def fuse(module: nn.Module) -> None:
    """Fuses what can be in a module and all inside it, one group of evaluated weights at a time.

    Memory peaks at the module and one group more.
    """
    for _, one in module.named_modules():
        if isinstance(one, Fusable):
            one.fuse()
            mx.clear_cache()


class Fusable(nn.Module):
    """A module some of whose linear maps have the same input."""

    fusable: tuple[str, ...] = ()
    """Their names, in the order of their outputs."""
    _fused: FusedLinear | None = None

    def fuse(self) -> None:
        """Makes them one product, unless they differ in form."""
        modules = [self[name] for name in self.fusable]
        self._fused = FusedLinear(modules) if alike(modules) else None

    def fused(self) -> FusedLinear | None:
        """Their one product; None where there is none, or one of them is not what it was."""
        one = self._fused
        if one is not None and not one.stands_for([self[name] for name in self.fusable]):
            one = self._fused = None
        return one


def _form(module: nn.Module) -> tuple[object, ...] | None:
    if type(module) not in FUSED or "bias" in module:
        return None
    stored = tuple((f, module[f].dtype, module[f].shape[1:]) for f in _fields(module))
    kind = tuple(getattr(module, name, None) for name in ("group_size", "bits", "mode"))
    return type(module), kind, stored


def _fields(module: nn.Module) -> list[str]:
    return [name for name in ("weight", "scales", "biases") if module.get(name) is not None]
