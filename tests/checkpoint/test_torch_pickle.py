"""`.pth` files: tensors come out bit for bit, and nothing in a file is ever run."""

from __future__ import annotations

import os
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.checkpoint.pickle_machine import read_state_dict
from mlx_mistral.checkpoint.torch_pickle import TorchFile
from mlx_mistral.errors import CheckpointError
from tests.checkpoint.writers import (
    bfloat16_bits,
    call,
    items,
    name,
    number,
    state_dict,
    storage,
    tensor,
    text,
    write_torch,
    write_torch_zip,
)

NUMBERS = np.arange(24, dtype=np.float32)
STORED = storage("0", "FloatStorage", 24)
GOOD = tensor(STORED, (4, 6), (6, 1))


def torch_file(folder: Path, pickled: bytes, **options: Any) -> TorchFile:
    path = folder / "w.pth"
    write_torch_zip(path, pickled, {"0": NUMBERS.tobytes()}, **options)
    return TorchFile(path)


@pytest.mark.parametrize("dtype", ["f4", "f2", "u1", "u2"])
def test_tensors_come_out_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"layers.{n}.w": rng.integers(0, 255, (3, n + 1)).astype(dtype) for n in range(4)}
    write_torch(tmp_path / "w.pth", arrays)
    file = TorchFile(tmp_path / "w.pth")
    assert set(file.tensors) == set(arrays)
    for key, array in arrays.items():
        assert file.tensors[key].shape == array.shape
        assert file.read(key).dtype == array.dtype
        assert np.array_equal(file.read(key), array)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((4, 6), (6, 1), 0),
        ((6, 4), (1, 6), 0),
        ((2, 3), (6, 2), 7),
        ((), (), 23),
        ((0, 5), (5, 1), 0),
    ],
)
def test_views_of_a_storage_are_those_of_numpy(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, tmp_path: Path
) -> None:
    file = torch_file(tmp_path, state_dict({"w": tensor(STORED, shape, strides, offset)}))
    steps = [4 * step for step in strides]
    expected = np.lib.stride_tricks.as_strided(NUMBERS[offset:], shape, steps)
    assert np.array_equal(file.read("w"), expected)


def test_two_tensors_may_share_a_storage(tmp_path: Path) -> None:
    half = tensor(STORED, (2, 6), (6, 1), 12)
    file = torch_file(tmp_path, state_dict({"a": GOOD, "b": half}))
    assert np.array_equal(file.read("a")[2:], file.read("b"))


def test_bfloat16_comes_as_its_bits(tmp_path: Path) -> None:
    bits = bfloat16_bits(np.array([1.0, -2.5, 3e38], np.float32))
    write_torch(tmp_path / "w.pth", {"w": bits})
    assert TorchFile(tmp_path / "w.pth").tensors["w"].dtype == "BF16"
    assert np.array_equal(TorchFile(tmp_path / "w.pth").read("w"), bits)


def test_attributes_of_a_state_dict_are_ignored(tmp_path: Path) -> None:
    metadata = b"}" + text("_metadata") + b"}s" + b"b"
    pickled = b"\x80\x02" + call(name("collections", "OrderedDict")) + b"("
    pickled += text("w") + GOOD + b"u" + metadata + b"."
    assert np.array_equal(torch_file(tmp_path, pickled).read("w"), NUMBERS.reshape(4, 6))


class Payload:
    """What an attacker's object does when Python's own unpickler meets it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def doubled(times: int) -> bytes:
    """Tuples of tuples, each holding the last one twice: small to store, endless to walk."""
    return b")" + b"".join(b"q\x00h\x00h\x00\x86" for _ in range(times))


HOSTILE = {
    "os.system": lambda canary: pickle.dumps({"w": Payload(os.system, f"touch {canary}")}, 2),
    "os.system, protocol 5": lambda canary: pickle.dumps({"w": Payload(os.system, "x")}, 5),
    "os.system, protocol 0": lambda canary: pickle.dumps({"w": Payload(os.system, "x")}, 0),
    "subprocess": lambda canary: pickle.dumps(
        {"w": Payload(subprocess.call, ["touch", canary])}, 2
    ),
    "builtins.eval": lambda canary: pickle.dumps({"w": Payload(eval, f"open({canary!r},'w')")}, 2),
    "builtins.exec": lambda canary: pickle.dumps({"w": Payload(exec, f"open({canary!r},'w')")}, 2),
    "builtins.open": lambda canary: pickle.dumps({"w": Payload(open, canary, "w")}, 2),
    "builtins.getattr": lambda _: state_dict(
        {"w": call(name("builtins", "getattr"), name("torch._utils", "os"), text("system"))}
    ),
    "a dotted name": lambda _: state_dict({"w": name("collections", "OrderedDict.fromkeys")}),
    "a name inside torch": lambda _: state_dict({"w": name("torch._utils", "_import_dotted_name")}),
    "torch.load": lambda _: state_dict({"w": call(name("torch", "load"), text("x"))}),
    "torch.hub": lambda _: state_dict({"w": call(name("torch.hub", "load"), text("x"))}),
    "a storage that is called": lambda _: state_dict(
        {"w": call(name("torch", "FloatStorage"), number(1 << 40))}
    ),
    "a rebuild of something else": lambda _: state_dict(
        {"w": call(name("torch._utils", "_rebuild_tensor_v2"), text("x"), text("y"))}
    ),
    "a tensor that is called": lambda _: state_dict({"w": GOOD + b")R"}),
    "an argument that is no tuple": lambda _: state_dict(
        {"w": name("collections", "OrderedDict") + b"]R"}
    ),
    "OrderedDict with arguments": lambda _: state_dict(
        {"w": call(name("collections", "OrderedDict"), items(items(text("a"), number(1))))}
    ),
    "NEWOBJ": lambda _: state_dict({"w": name("collections", "OrderedDict") + b")\x81"}),
    "NEWOBJ_EX": lambda _: state_dict({"w": name("collections", "OrderedDict") + b")}\x92"}),
    "OBJ": lambda _: state_dict({"w": b"(" + name("collections", "OrderedDict") + b"o"}),
    "INST": lambda _: state_dict({"w": b"(icollections\nOrderedDict\n"}),
    "INST of os.system": lambda canary: state_dict(
        {"w": b"(" + text(f"touch {canary}") + b"ios\nsystem\n"}
    ),
    "BUILD on a tensor": lambda _: state_dict({"w": GOOD + b"}" + text("key") + text("9") + b"sb"}),
    "BUILD with a tuple": lambda _: b"\x80\x02}" + items(text("a")) + b"b.",
    "STACK_GLOBAL": lambda _: b"\x80\x04}" + text("w") + text("os") + text("system") + b"\x93s.",
    "STACK_GLOBAL of an endless hash": lambda _: b"\x80\x04" + doubled(64) + text("x") + b"\x93.",
    "an endless hash as a key": lambda _: b"\x80\x02}q\x01" + doubled(64) + b"h\x01h\x00Ns.",
    "a persistent id in text": lambda _: state_dict({"w": b"P../../etc/passwd\n"}),
    "a persistent id of another kind": lambda _: state_dict({"w": text("module") + b"Q"}),
    "a storage whose key is a path": lambda _: state_dict(
        {"w": tensor(storage("../data.pkl", "FloatStorage", 24), (4, 6), (6, 1))}
    ),
    "a storage whose key is ²": lambda _: state_dict(
        {"w": tensor(storage("²", "FloatStorage", 24), (4, 6), (6, 1))}
    ),
    "a storage that is not there": lambda _: state_dict(
        {"w": tensor(storage("7", "FloatStorage", 24), (4, 6), (6, 1))}
    ),
    "a storage larger than its data": lambda _: state_dict(
        {"w": tensor(storage("0", "FloatStorage", 25), (5, 5), (5, 1))}
    ),
    "a wider dtype than its data": lambda _: state_dict(
        {"w": tensor(storage("0", "DoubleStorage", 24), (4, 6), (6, 1))}
    ),
    "a storage of negative size": lambda _: state_dict(
        {"w": tensor(storage("0", "FloatStorage", -1), (4, 6), (6, 1))}
    ),
    "a shape past its storage": lambda _: state_dict({"w": tensor(STORED, (5, 6), (6, 1))}),
    "strides past their storage": lambda _: state_dict({"w": tensor(STORED, (4, 6), (8, 1))}),
    "an offset past its storage": lambda _: state_dict({"w": tensor(STORED, (4, 6), (6, 1), 1)}),
    "a negative offset": lambda _: state_dict({"w": tensor(STORED, (4, 6), (6, 1), -1)}),
    "a negative dimension": lambda _: state_dict({"w": tensor(STORED, (-4, 6), (6, 1))}),
    "a negative stride": lambda _: state_dict({"w": tensor(STORED, (4, 6), (6, -1), 5)}),
    "a stride of 0 that multiplies": lambda _: state_dict(
        {"w": tensor(STORED, (1 << 40, 6), (0, 1))}
    ),
    "dimensions that wrap": lambda _: state_dict({"w": tensor(STORED, (1 << 62, 1 << 62), (0, 0))}),
    "more strides than dimensions": lambda _: state_dict({"w": tensor(STORED, (24,), (6, 1))}),
    "a text as shape": lambda _: state_dict(
        {"w": GOOD.replace(items(number(4), number(6)), text("46"))}
    ),
    "a dict that holds no tensor": lambda _: state_dict({"w": number(3)}),
    "a dict that holds a dict": lambda _: state_dict({"model": b"}" + text("w") + GOOD + b"s"}),
    "a key that is a number": lambda _: b"\x80\x02}" + number(3) + GOOD + b"s.",
    "a key twice": lambda _: b"\x80\x02}(" + 2 * (text("w") + GOOD) + b"u.",
    "items set on a tensor": lambda _: b"\x80\x02" + GOOD + text("w") + GOOD + b"s.",
    "items appended to a dict": lambda _: b"\x80\x02}" + GOOD + b"a.",
    "a list": lambda _: b"\x80\x02]" + GOOD + b"a.",
    "a tensor alone": lambda _: b"\x80\x02" + GOOD + b".",
    "nothing": lambda _: b"",
    "no STOP": lambda _: state_dict({"w": GOOD})[:-1],
    "STOP on an empty stack": lambda _: b"\x80\x02.",
    "a MARK that is missing": lambda _: b"\x80\x02}u.",
    "a memo entry that is missing": lambda _: b"\x80\x02h\x09.",
    "a truncated text": lambda _: b"\x80\x02X\xff\xff\xff\x7fw.",
    "an opcode that does not exist": lambda _: b"\x80\x02\xfe.",
    "an extension code": lambda _: b"\x80\x02\x82\x01.",
    "a buffer out of band": lambda _: b"\x80\x05\x97.",
    "a number of 10000 digits": lambda _: b"\x80\x02I" + b"9" * 10_000 + b"\n.",
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_and_runs_nothing(make: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with pytest.raises(CheckpointError) as caught:
        torch_file(tmp_path, make(str(canary)))
    assert not canary.exists()
    assert "\n" not in str(caught.value)


def test_deep_nesting_ends(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        torch_file(tmp_path, b"\x80\x02" + b")" + b"\x85" * 100_000 + b".")


def test_a_list_inside_itself_ends(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        torch_file(tmp_path, b"\x80\x02]q\x00h\x00a.")


def test_a_forged_memo_index_takes_no_memory(tmp_path: Path) -> None:
    pickled = state_dict({"w": GOOD + b"r\xff\xff\xff\xff"})
    assert torch_file(tmp_path, pickled).tensors["w"].shape == (4, 6)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5))
def test_changed_bytes_give_sound_tensors_or_an_error(changes: list[tuple[int, int]]) -> None:
    pickled = bytearray(state_dict({"w": GOOD, "b": tensor(STORED, (24,), (1,))}))
    for position, value in changes:
        pickled[position % len(pickled)] = value
    try:
        tensors = read_state_dict(bytes(pickled), "w.pth")
    except CheckpointError:
        return
    for found in tensors.values():
        reach = sum(
            (size - 1) * step for size, step in zip(found.shape, found.strides, strict=True)
        )
        assert 0 in found.shape or found.offset + reach < found.storage_size


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="compressed"):
        torch_file(tmp_path, state_dict({"w": GOOD}), compression=zipfile.ZIP_DEFLATED)


def test_a_bomb_of_zeros_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match="compressed"):
        TorchFile(path)


def test_a_large_pickle_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="larger than any"):
        torch_file(tmp_path, bytes(17_000_000))


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    write_torch_zip(path, state_dict({"w": GOOD}), {"0": NUMBERS.tobytes(), "1": b"1"})
    content = path.read_bytes()
    # The directory's entry for member 1 is pointed at member 0.
    first, second = content.rindex(b"archive/data/0"), content.rindex(b"archive/data/1")
    offset = content[first - 4 : first]
    path.write_bytes(content[: second - 4] + offset + content[second:])
    with pytest.raises(CheckpointError, match="reaches into another"):
        TorchFile(path)


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    write_torch_zip(path, state_dict({"w": GOOD}), {"0": NUMBERS.tobytes()})
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", b"other")
    with pytest.raises(CheckpointError, match="twice"):
        TorchFile(path)


@pytest.mark.parametrize(
    "names", [["data.pkl"], ["a/data.pkl", "b/data.pkl"], ["../x/data.pkl"], []]
)
def test_an_archive_needs_one_folder_with_one_pickle(names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for entry in [*names, "x/other"]:
            archive.writestr(entry, state_dict({}))
    with pytest.raises(CheckpointError, match=r"no archive of torch\.save"):
        TorchFile(path)


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="little-endian"):
        torch_file(tmp_path, state_dict({"w": GOOD}), byteorder=b"big")


@pytest.mark.parametrize("content", [b"", b"PK", pickle.dumps({"w": 1}, 2), bytes(1000)])
def test_what_is_no_zip_archive_says_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"no archive of torch\.save"):
        TorchFile(path)


@pytest.mark.parametrize("cut", range(0, 1400, 61))
def test_a_truncated_archive_says_so(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    write_torch_zip(path, state_dict({"w": GOOD}), {"0": NUMBERS.tobytes()})
    content = path.read_bytes()
    assert len(content) < 1400
    path.write_bytes(content[: min(cut, len(content) - 1)])
    with pytest.raises(CheckpointError):
        TorchFile(path)
