"""`--memory`: a budget on every command that loads a model, kept, told of, or refused."""

from __future__ import annotations

import gc
from pathlib import Path

import mlx.core as mx
import pytest
from command_line import Run, failed_in_one_line

from mlx_mistral.memory import machine

LONG = "Count to three. " * 60
STEPS = ("smaller chunks", "kept for reuse", "8 bits")
"""What the demo model does with a long prompt in so little memory."""


def beside(n_bytes: int) -> str:
    """A budget of so much beside what tests before this one have left."""
    gc.collect()
    return str(mx.get_active_memory() + n_bytes)


def test_each_kind_of_step_down_is_told_once_a_reply(run: Run) -> None:
    flags = ("--memory", beside(14_600_000), "--max-tokens", "4")
    made = run("generate", "demo", "-p", LONG, *flags, "--quiet")
    said = run("chat", "demo", *flags, stdin=f"{LONG}\n".encode())
    for ended in (made, said):
        assert ended.status == 0
        assert [sum(step in line for line in ended.err.splitlines()) for step in STEPS] == [1] * 3


def test_samples_that_do_not_fit_at_once_are_the_same_a_few_at_a_time(run: Run) -> None:
    draw = ("generate", "demo", "-p", "Hello", "-n", "6", "--max-tokens", "8", "--seed", "1",
            "--json")  # fmt: skip
    wide = run(*draw)
    narrow = run(*draw, "--memory", beside(14_800_000))
    assert "of 6 texts at once; the others wait" in narrow.err
    assert narrow.json["token_ids"] == wide.json["token_ids"]
    assert failed_in_one_line(run(*draw, "--memory", "2MB"))


@pytest.mark.parametrize("command", [["generate", "-p", "Hello"], ["chat"], ["bench", "-n", "1"]])
def test_without_a_budget_the_machine_s_own_holds(
    run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = machine.Machine(budget_bytes=3_000_000, source="a test")
    monkeypatch.setattr(machine, "this_machine", lambda: small)
    ended = run(command[0], "demo", *command[1:], stdin=b"Hello\n")
    assert failed_in_one_line(ended)
    assert "3.00 MB" in ended.err


@pytest.mark.parametrize("command", ["generate", "chat", "bench", "fit"])
@pytest.mark.parametrize("budget", ["-5GB", "0", "1e99", "lots", "9" * 30, "16 XB"])
def test_an_absurd_budget_is_one_line(run: Run, command: str, budget: str) -> None:
    ended = run(command, "demo", f"--memory={budget}")
    assert (ended.status, ended.out) == (2, "")
    assert "--memory" in ended.err.splitlines()[-1]


@pytest.mark.parametrize("command", [["generate", "-p", "Hi"], ["chat"], ["bench"]], ids=" ".join)
@pytest.mark.parametrize("budget", ["1", "1kB", "2MB"])
def test_a_budget_too_small_for_the_model_is_one_line(
    run: Run, command: list[str], budget: str
) -> None:
    ended = run(command[0], "demo", *command[1:], "--memory", budget, stdin=b"Hello\n")
    assert failed_in_one_line(ended)
    assert "budget is" in ended.err


@pytest.mark.parametrize(
    "command",
    [["fit", "--context", "99999999"], ["bench", "--depth", "99999999", "-p", "0"],
     ["convert", "DEST", "--fit", "1GB", "--context", "99999999"],
     ["generate", "-p", "Hi", "--context", "99999999"],
     ["generate", "-p", "Hi", "-n", "2", "--context", "99999999"],
     ["chat", "--context", "99999999"]],
    ids=" ".join,
)  # fmt: skip
def test_a_context_beyond_the_model_s_is_one_line(
    run: Run, command: list[str], tmp_path: Path
) -> None:
    words = [str(tmp_path / "made") if word == "DEST" else word for word in command[1:]]
    assert failed_in_one_line(run(command[0], "demo", *words, stdin=b"Hello\n"))
