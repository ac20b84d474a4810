"""What `vm_stat` prints, written down from its documented format."""

from __future__ import annotations

import platform
import subprocess
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_mistral.memory import mac, machine

GIB = 1 << 30
VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               65536.
Pages active:                            400000.
Pages inactive:                          131072.
Pages speculative:                        32768.
Pages throttled:                              0.
Pages wired down:                        150000.
Pages purgeable:                          32768.
"Translation faults":                 123456789.
Pages copy-on-write:                    1234567.
Pageins:                                7654321.
Swapins:                                      0.
"""


def test_free_is_what_nobody_holds_and_what_is_given_up_first() -> None:
    assert mac.free_bytes(VM_STAT) == 16384 * (65536 + 131072 + 32768)
    intel = VM_STAT.replace("16384", "4096")
    assert mac.free_bytes(intel) == 4096 * (65536 + 131072 + 32768)


@pytest.mark.parametrize(
    "text",
    ["", "vm_stat: no such thing", VM_STAT.partition("\n")[2], VM_STAT.replace("free", "fresh"),
     VM_STAT.replace("65536.", "-1."), VM_STAT.replace("65536.", "٣."), "\x00\n" * 9],
)  # fmt: skip
def test_what_does_not_tell_is_none(text: str) -> None:
    assert mac.free_bytes(text) is None


@pytest.mark.parametrize("error", [None, OSError(), subprocess.TimeoutExpired("vm_stat", 2)])
def test_a_mac_tells_its_budget_and_what_is_free_of_it(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> SimpleNamespace:
        assert command == ["/usr/bin/vm_stat"]
        if error:
            raise error
        return SimpleNamespace(stdout=VM_STAT)

    info = {"max_recommended_working_set_size": 12 * GIB, "memory_size": 16 * GIB}
    gpu = SimpleNamespace(type=mx.DeviceType.gpu)
    monkeypatch.setattr(mac.subprocess, "run", run)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(mx, "default_device", lambda: gpu)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    found = machine.this_machine_now()
    assert found.budget_bytes == 12 * GIB
    assert found.free_bytes == (None if error else mac.free_bytes(VM_STAT))
    info["max_recommended_working_set_size"] = 2 * GIB
    assert machine.this_machine_now().free_bytes == (None if error else 2 * GIB)
