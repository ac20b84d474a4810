"""`doctor`: a line for each check, promised keys, and status 1 where a check failed."""

from __future__ import annotations

from typing import Any

import pytest
from command_line import Run

import mlx_mistral.bench
import mlx_mistral.doctor
from mlx_mistral.cli.doctor_text import card_lines, check_line, summary
from mlx_mistral.cli.main import main
from mlx_mistral.doctor import Check, Measurement, Probe, all_probes

CARD: dict[str, Any] = {
    "chip": "Apple M3\n\x1b[2JMax", "gpu_cores": 40, "os_version": "macOS 15.6.1",
    "backend": "Metal",
    "memory_bytes": 64 << 30, "working_set_bytes": 48 << 30, "wired_limit_bytes": 0,
    "free_bytes": None, "power": "AC Power", "thermal": "no warning",
    "environment": {"MLX_MISTRAL_BACKEND": "mlx"},
}  # fmt: skip


def failing() -> Measurement:
    raise ValueError("bad\nkernel")


PROBES = [
    Probe(name="product", measure=lambda: Measurement.error(1e-6, 1e-5), is_quick=True),
    Probe(name="demo reply", measure=lambda: Measurement.differences(0)),
    Probe(name="mask", measure=failing, advice="update MLX"),
]


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Probe]:
    """The checks of a run, without those of this machine."""
    chosen = list(PROBES)
    monkeypatch.setattr(mlx_mistral.doctor, "all_probes", lambda card, *, quick: chosen)
    monkeypatch.setattr(mlx_mistral.bench, "machine_card", lambda: CARD)
    return chosen


def test_a_failed_check_ends_with_status_1_and_one_line_that_names_it(
    run: Run, probes: list[Probe]
) -> None:
    ended = run("doctor")
    assert ended.status == 1
    *_, last = ended.err.splitlines()
    assert last == ("error: 1 of 3 checks failed: mask; follow the advice of each failed check")
    lines = ended.out.splitlines()
    assert lines[0] == "chip        Apple M3 [2JMax, 40 GPU cores"
    assert lines[-3].split() == ["ok", "product", "error", "1.0e-06", "limit", "1.0e-05"]
    assert lines[-1].startswith("failed   mask")
    assert lines[-1].endswith("ValueError: bad kernel  update MLX")


def test_without_failures_the_status_is_0(run: Run, probes: list[Probe]) -> None:
    probes.pop()
    ended = run("doctor", "--quiet")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.splitlines()[-1].startswith("ok       demo reply")


def test_json_has_the_promised_keys_where_checks_fail_too(run: Run, probes: list[Probe]) -> None:
    ended = run("doctor", "--json")
    assert ended.status == 1
    assert ended.err.startswith("error: 1 of 3 checks failed")
    assert len(ended.err.splitlines()) == 1
    card = ended.json
    assert {"ok", "machine", "versions", "checks"} <= set(card)
    assert card["ok"] is False
    assert [check["ok"] for check in card["checks"]] == [True, True, False]
    for check in card["checks"]:
        assert set(check) == {"name", "ok", "value", "limit", "advice"}


def test_the_quick_run_of_this_machine_passes(run: Run) -> None:
    ended = run("doctor", "--quick", "--json")
    assert ended.status == 0, ended.err
    card = ended.json
    assert card["ok"] is True
    assert card["quick"] is True
    assert len(card["checks"]) >= 20
    assert {"chip", "memory_bytes", "free_bytes"} <= set(card["machine"])


def test_the_full_run_has_every_kind_of_check() -> None:
    full = [probe.name for probe in all_probes(CARD, quick=False)]
    quick = [probe.name for probe in all_probes(CARD, quick=True)]
    assert len(full) == len(set(full))
    assert full[: len(quick)] == quick
    assert len(full) > 75
    kinds = (
        "machine, ", "demo, ", "memory plan", "decode steps copy no growing",
        "decode steps copy no rotating", "expert offloading", "memory bandwidth",
        "attention, causal, 513",
        "attention, window of 4096", "attention, uneven batch", "attention, 8-bit cache",
        "attention, 4-bit cache", "rms norm", "rotary embedding, YaRN", "quantized product, nvfp4",
        "compiled step", "experts, 4096 to 14336", "experts, mxfp8", "single expert, 4-bit",
    )  # fmt: skip
    for kind in kinds:
        assert any(name.startswith(kind) for name in full), kind


def test_the_backend_in_use_is_checked_beside_plain_operations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlx_mistral.backend.select import use_backend

    with use_backend("cpu"):
        names = [probe.name for probe in all_probes(CARD, quick=False)]
    for name in ("rms norm", "attention, causal, 7 tokens", "single expert, 17 tokens"):
        assert name in names
        assert f"{name}, cpu backend" in names


def test_a_skipped_check_is_marked_and_counted() -> None:
    skipped = Check(name="slow", ok=True, value="skipped", limit=None, advice="not run: no time")
    assert check_line(skipped, 8) == "skipped  slow      not run: no time"
    text = summary([skipped, Check(name="x", ok=True, value=1, limit=None, advice="")], 12.2)
    assert text == "1 checks ok, 0 failed, 1 skipped, in 12 s"


def test_values_and_limits_are_in_their_units() -> None:
    for measured, expected in (
        (Measurement.share(0.7123, 0.5), "71% of the bandwidth limit 50% at least"),
        (Measurement.at_most_bytes(1_500_000, 2_000_000), "peak 1.50 MB limit 2.00 MB"),
        (Measurement.differences(1234), "1,234 values differ limit 0"),
        (Measurement(value=None), "None"),
    ):
        check = Check(
            name="x",
            ok=True,
            value=measured.value,
            limit=measured.limit,
            advice="",
            unit=measured.unit,
        )
        assert check_line(check, 1).split() == ["ok", "x", *expected.split()]


def test_facts_that_are_unknown_have_no_line() -> None:
    assert card_lines({}, {}, "mlx", "float32") == ["device      None, mlx backend, float32"]


def test_help_names_the_quick_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor", "--help"])
    assert end.value.code == 0
    assert "--quick" in capsys.readouterr().out
