"""A pickle reader that can build the contents of a PyTorch state dict and nothing else.

Python's own unpickler calls whatever a file names, and even with a list of allowed names it
can be made to fill memory or to hash forever. This one interprets the few opcodes that
`torch.save` writes for a dict of tensors. It never imports, looks up or calls what a file
names: the four known constructors are cases of `_reduce`, everything else is an error.
Source: Python's pickletools (opcodes); torch/_utils.py and torch/serialization.py (the calls).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.untrusted import shown

MAX_OPCODES = 2_000_000
"""A checkpoint of 2,000 tensors takes about 60,000."""

STORAGE_DTYPES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "ShortStorage": "I16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "BoolStorage": "BOOL",
    "DoubleStorage": "F64",
}
CONSTRUCTORS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage: `key` names it, offset and strides count elements."""

    key: str
    dtype: str
    storage_size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A global that the file mentions. Inert: only compared, never resolved."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    size: int


_MARK = object()


def read_state_dict(raw: bytes, where: str) -> dict[str, StoredTensor]:
    """The tensors that a pickled dict holds, by name.

    Raises: CheckpointError: the pickle names or does anything but build a dict of tensors.
    """
    machine = _Machine(where)
    try:
        value = machine.run(raw)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeError) as error:
        raise _hostile(where, f"the pickle is malformed ({shown(str(error))})") from None
    if type(value) is not dict:
        raise _hostile(where, "the pickle is no dict of tensors")
    for name, tensor in value.items():
        if type(name) is not str or type(tensor) is not StoredTensor:
            raise _hostile(where, f"the entry {shown(name)} is no tensor")
    return value


class _Machine:
    """The pickle stack machine, reduced to what a state dict needs."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, raw: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
            if count > MAX_OPCODES:
                raise _hostile(self.where, "the pickle is longer than any checkpoint's")
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("no STOP")

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _TUPLES:
            stack.append(tuple(reversed([stack.pop() for _ in range(_TUPLES[name])])))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self._set_items(items)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            stack.append(self._name(module, attribute))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._name(module, attribute))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._reduce(function, arguments))
        elif name == "BUILD":
            self._ignore_attributes(stack.pop())
        elif name not in ("PROTO", "FRAME"):
            raise self._refused(f"it uses the opcode {name}")

    def _to_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise self._refused(f"it adds items to something that is no {kind.__name__}")
        return self.stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str or key in target:
                raise self._refused(f"a dict has the key {shown(_brief(key))} twice or as no text")
            target[key] = value

    def _name(self, module: object, attribute: object) -> _Name:
        # Types first: hashing a deeply shared tuple would never end.
        if type(module) is str and type(attribute) is str:
            storage = module == "torch" and attribute in STORAGE_DTYPES
            if storage or (module, attribute) in CONSTRUCTORS:
                return _Name(module, attribute)
        raise self._refused(f"it names {shown(f'{_brief(module)}.{_brief(attribute)}')}")

    def _storage(self, persistent_id: object) -> _Storage:
        match persistent_id:
            case ("storage", _Name("torch", name), str(key), str(), int(size)) if (
                name in STORAGE_DTYPES and key.isascii() and key.isdigit() and size >= 0
            ):
                return _Storage(key, STORAGE_DTYPES[name], size)
        raise self._refused("a persistent id is no storage")

    def _reduce(self, function: object, arguments: object) -> Any:
        if type(arguments) is not tuple:
            raise self._refused("it calls something with no tuple of arguments")
        match function, arguments:
            case _Name("collections", "OrderedDict"), ():
                return {}
            case _Name("torch._utils", "_rebuild_parameter"), (StoredTensor() as data, _, _):
                return data
            case (
                _Name("torch._utils", "_rebuild_tensor_v2"),
                (_Storage() as storage, offset, shape, strides, bool(), *_),
            ):
                return self._tensor(storage, offset, shape, strides)
        raise self._refused("it calls something that builds no tensor")

    def _tensor(
        self, storage: _Storage, offset: object, shape: object, strides: object
    ) -> StoredTensor:
        dimensions, steps = self._integers(shape), self._integers(strides)
        (start,) = self._integers((offset,))
        if len(dimensions) != len(steps) or len(dimensions) > 8:
            raise self._refused("a tensor's shape and strides do not match")
        elements, last = 1, start
        for dimension, step in zip(dimensions, steps, strict=True):
            elements *= dimension
            last += (dimension - 1) * step
        if elements and (last >= storage.size or elements > storage.size):
            raise self._refused(
                f"a tensor of shape {list(dimensions)} reaches outside of its storage"
            )
        return StoredTensor(storage.key, storage.dtype, storage.size, start, dimensions, steps)

    def _integers(self, value: object) -> tuple[int, ...]:
        if type(value) is not tuple or any(type(n) is not int or n < 0 for n in value):
            raise self._refused("a shape, stride or offset is no integer from 0 up")
        if any(n > (1 << 62) for n in value):
            raise self._refused("a shape, stride or offset is too large")
        return value

    def _ignore_attributes(self, state: object) -> None:
        """state_dict() carries `_metadata` as an attribute; it says nothing about weights."""
        self._top(dict)
        if type(state) is not dict:
            raise self._refused("it sets the state of an object")

    def _refused(self, what: str) -> CheckpointError:
        return _hostile(self.where, f"the pickle does more than build tensors: {what}")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_LITERALS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE")
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _brief(value: object) -> object:
    return value[:80] if isinstance(value, str) else type(value).__name__


def _hostile(where: str, what: str) -> CheckpointError:
    return CheckpointError(f"{where}: {what}; nothing was run: use safetensors files instead")
