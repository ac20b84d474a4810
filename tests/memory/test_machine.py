from __future__ import annotations

from pathlib import Path

import pytest

from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.memory.machine import from_device_info, linux, this_machine

GIB = 1 << 30
MEMINFO = (
    "MemTotal:       16777216 kB\nMemFree:  1024 kB\nMemAvailable:    8388608 kB\nHugePages: 0\n"
)


def files(root: Path, **contents: str) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **contents}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_without_a_limit_it_is_physical_memory(tmp_path: Path) -> None:
    machine = linux(files(tmp_path))
    assert (machine.budget_bytes, machine.free_bytes) == (16 * GIB, 8 * GIB)
    assert machine.source == "physical memory"


@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("0::/a/b", "sys/fs/cgroup/a/b/memory.max"),
        ("0::/a/b", "sys/fs/cgroup/a/memory.max"),
        ("0::/", "sys/fs/cgroup/memory.max"),
        ("0::/not/mounted/here", "sys/fs/cgroup/memory.max"),
        ("0::/a", "sys/fs/cgroup/unified/a/memory.max"),
        ("4:memory:/c", "sys/fs/cgroup/memory/c/memory.limit_in_bytes"),
        ("4:cpu,memory:/c", "sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ],
)
def test_a_limit_of_any_group_above_bounds_it(tmp_path: Path, group: str, file: str) -> None:
    root = files(
        tmp_path, **{"proc/self/cgroup": f"9:name=systemd:/\n{group}\n", file: f"{2 * GIB}\n"}
    )
    machine = linux(root)
    assert (machine.budget_bytes, machine.free_bytes) == (2 * GIB, 2 * GIB)
    assert "cgroup" in machine.source


def test_the_tightest_of_several_limits_counts(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": f"{3 * GIB}",
            "sys/fs/cgroup/a/b/memory.max": f"{5 * GIB}",
        },
    )
    assert linux(root).budget_bytes == 3 * GIB


@pytest.mark.parametrize("text", ["max", "9223372036854771712", "", "-1", "0", "12 GB", "\x00"])
def test_what_is_no_limit_bounds_nothing(tmp_path: Path, text: str) -> None:
    root = files(
        tmp_path, **{"proc/self/cgroup": "0::/\nbroken\n", "sys/fs/cgroup/memory.max": text}
    )
    assert linux(root).budget_bytes == 16 * GIB


def test_a_group_of_another_controller_is_not_looked_at(tmp_path: Path) -> None:
    root = files(
        tmp_path,
        **{
            "proc/self/cgroup": "4:cpuset:/c\n",
            "sys/fs/cgroup/memory/c/memory.limit_in_bytes": "1000",
        },
    )
    assert linux(root).budget_bytes == 16 * GIB


@pytest.mark.parametrize("meminfo", ["", "MemTotal: lots kB\n", "MemTotal: 5 GB\n"])
def test_a_system_that_does_not_tell_is_an_error(tmp_path: Path, meminfo: str) -> None:
    with pytest.raises(MemoryBudgetError, match="--memory"):
        linux(files(tmp_path, **{"proc/meminfo": meminfo}))


def test_a_gpu_tells_its_own_budget() -> None:
    metal = from_device_info(
        {"memory_size": 16 * GIB, "max_recommended_working_set_size": 12 * GIB, "device_name": "M"}
    )
    assert metal is not None
    assert (metal.budget_bytes, metal.free_bytes) == (12 * GIB, None)
    assert "Metal" in metal.source
    cuda = from_device_info({"total_memory": 80 * GIB, "free_memory": 70 * GIB})
    assert cuda is not None
    assert (cuda.budget_bytes, cuda.free_bytes) == (80 * GIB, 70 * GIB)
    assert from_device_info({"device_name": "AMD"}) is None


def test_this_machine_has_some_memory() -> None:
    assert this_machine().budget_bytes > 1 << 20
