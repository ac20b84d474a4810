from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line

from mlx_mistral.cli import options


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("16GB", 16_000_000_000),
        ("16GiB", 17_179_869_184),
        ("900MB", 900_000_000),
        ("1.5GiB", 1_610_612_736),
        ("1 kB", 1000),
        ("2tib", 2 * 1024**4),
        ("123456", 123456),
        ("5B", 5),
    ],
)
def test_a_size_is_decimal_or_binary_as_its_unit_says(text: str, n_bytes: int) -> None:
    assert options.size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "16G", "16 apples", "-1", "0", "1e9", "٣GB", "nan"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        options.size(text)


@pytest.mark.parametrize(
    "flags",
    [
        ["--temp", "-1"], ["--temp", "nan"], ["--temp", "inf"], ["--top-p", "0"],
        ["--top-p", "1.1"], ["--min-p", "2"], ["--top-k", "-1"], ["--max-tokens", "0"],
        ["--max-tokens", "1.5"], ["--seed", "-3"], ["--repetition-penalty", "0"],
        ["--context", "0"], ["--kv-bits", "3"], ["--kv-bits", "x"], ["-n", "0"], ["-n", "1025"],
        ["--max-tokens", "2147483648"],
        ["--memory", "lots"], ["--dtype", "int8"],
        ["--unknown"], ["--max", "3"], ["-p", "a", "-f", "b"], ["--raw", "--system", "x"],
        ["one", "two"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_status_2(run: Run, flags: list[str]) -> None:
    ended = run("generate", *flags)
    assert (ended.status, ended.out) == (2, "")


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("chat", ["--continue"]),
    ],
)
def test_a_flag_without_its_feature_is_refused_before_anything_loads(
    run: Run, command: str, flags: list[str], tmp_path: Path
) -> None:
    ended = run(command, tmp_path, *flags, stdin=b"Hello\n")
    assert failed_in_one_line(ended)
    assert flags[0] in ended.err


@pytest.mark.parametrize("command", ["generate", "chat", "bench"])
def test_a_model_that_does_not_fit_the_memory_is_refused_in_one_line(
    run: Run, command: str
) -> None:
    ended = run(command, "demo", "--memory", "2MB", stdin=b"Hello\n")
    assert failed_in_one_line(ended)
    assert re.search(r"demo (in test pp512 )?needs \d", ended.err)
    assert "2.00 MB" in ended.err


def test_every_promised_flag_exists(run: Run) -> None:
    promised = {
        "chat": "--system --temp --top-p --max-tokens --seed --kv-bits --context --memory --plain "
        "--continue --dtype --debug",
        "generate": "-p -f --system --raw --max-tokens --temp --top-p --top-k --min-p "
        "--repetition-penalty --seed --stop --kv-bits --context --memory --speculate --draft -n "
        "--num-samples --json --dtype --debug --quiet",
        "info": "--json",
        "tokens": "-p -f --chat --compare --json",
        "models": "--json",
    }
    for command, flags in promised.items():
        words = run(command, "--help").out.replace(",", " ").replace("[", " ").split()
        assert set(flags.split()) <= set(words), command
