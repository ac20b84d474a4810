"""How fast the window answers keys, and what its machine panel costs, in a pseudo-terminal.

    python benchmarks/window.py [--rounds N]

The bundled model in a terminal of 100 x 30. Times are from the byte that is written to the byte
that shows it, so they have the terminal's side in them. The model and the window share the
machine with whatever else runs there: the load average is printed with the figures.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pseudo_terminal import CHAT, CTRL_Q, ENTER, ESCAPE, PseudoTerminal

CTRL_U, F3 = "\x15", "\x1bOR"
ANY_TOKEN_TEMPERATURE = 1_000_000
"""All tokens are as likely: a reply goes on until it is as long as it may be."""
PROMPT_WORDS = 10_000


def n_echoed(text: str) -> int:
    """How many letters q stand in the composer."""
    return text.rpartition("╭")[2].partition("╰")[0].count("q")


def key_seconds(
    terminal: PseudoTerminal, n_keys: int, goes_on: Callable[[str], object]
) -> list[float]:
    """Times from a key to its letter, while something goes on."""
    times = []
    for _ in range(n_keys):
        if not goes_on(terminal.text):
            break
        before, begun = n_echoed(terminal.text), time.perf_counter()
        terminal.type("q")
        terminal.until(lambda text, before=before: n_echoed(text) > before)
        times.append(time.perf_counter() - begun)
    terminal.type(CTRL_U)
    terminal.until(lambda text: not n_echoed(text))
    return times


def stop_seconds(terminal: PseudoTerminal) -> float:
    """From Escape to the line that says so."""
    begun = time.perf_counter()
    terminal.type(ESCAPE)
    terminal.until(lambda text: "stopped" in text and "a second ─" not in text)
    return time.perf_counter() - begun


def cpu_seconds(terminal: PseudoTerminal) -> float:
    """Of all threads of the program; not a number where the system does not tell."""
    path = Path(f"/proc/{terminal.process.pid}/stat")
    if not path.exists():
        return float("nan")
    fields = path.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def clear(terminal: PseudoTerminal) -> None:
    terminal.type(f"/clear{ENTER}")
    terminal.until(lambda text: "Model\n" not in text and "/clear" not in text)


def is_streaming(text: str) -> bool:
    return " a second ─" in text


def is_reading(text: str) -> bool:
    return "new tokens ─" in text and "reading" in text


def measure_keys(terminal: PseudoTerminal, rounds: int) -> dict[str, list[float]]:
    """Echo and stop times by what the model does meanwhile."""
    times: dict[str, list[float]] = {}

    def note(name: str, more: list[float]) -> None:
        times.setdefault(name, []).extend(more)

    for _ in range(rounds):
        note("key, idle", key_seconds(terminal, 30, lambda text: True))
        terminal.type(f"/model demo{ENTER}")
        note("key, a model loads", key_seconds(terminal, 5, lambda text: True))
        terminal.until(lambda text: "loading demo" not in text)
        terminal.type("Go on" + ENTER)
        terminal.until(is_streaming)
        note("key, tokens stream", key_seconds(terminal, 30, is_streaming))
        note("Esc, tokens stream", [stop_seconds(terminal)])
        clear(terminal)
        terminal.paste("w " * PROMPT_WORDS)
        terminal.until("pasted")
        terminal.type(ENTER)
        terminal.until(is_reading)
        note("key, a long prompt is read", key_seconds(terminal, 30, is_reading))
        if is_reading(terminal.text):
            note("Esc, a long prompt is read", [stop_seconds(terminal)])
        else:
            terminal.until(is_streaming)
            stop_seconds(terminal)
        clear(terminal)
    return times


def measure_panel(terminal: PseudoTerminal, rounds: int) -> dict[bool, list[tuple[float, float]]]:
    """Decoded tokens/s and CPU share of replies, with the panel hidden and shown in turn."""
    figures: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(rounds):
        for is_shown in (False, True):
            if is_shown:
                terminal.type(F3)
                terminal.until("experts")
            begun, cpu = time.perf_counter(), cpu_seconds(terminal)
            terminal.type("Go on" + ENTER)
            terminal.until(is_streaming)
            terminal.until(lambda text: not is_streaming(text) and "tokens/s" in text)
            share = (cpu_seconds(terminal) - cpu) / (time.perf_counter() - begun)
            tps = re.findall(r"wrote [\d,]+ at ([\d,.]+)", terminal.text)
            figures[is_shown].append((float(tps[-1].replace(",", "")), share))
            if is_shown:
                terminal.type(F3)
                terminal.until(lambda text: "experts" not in text)
            clear(terminal)
    return figures


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    flags = ("--temp", str(ANY_TOKEN_TEMPERATURE), "--seed", "4")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as home:
        with PseudoTerminal(Path(home), *CHAT, *flags, size=(100, 30)) as terminal:
            terminal.until("Write a message")
            print(f"{'ms':<28}{'n':>5}{'median':>9}{'p95':>9}{'most':>9}")
            for name, times in measure_keys(terminal, rounds).items():
                ms = sorted(1e3 * each for each in times)
                p95 = ms[min(len(ms) - 1, int(0.95 * len(ms)))]
                print(
                    f"{name:<28}{len(ms):>5}{statistics.median(ms):>9.1f}{p95:>9.1f}{ms[-1]:>9.1f}"
                )
            terminal.type(CTRL_Q)
            terminal.wait()
        flags += ("--max-tokens", "400")
        with PseudoTerminal(Path(home), *CHAT, *flags, size=(100, 30)) as terminal:
            terminal.until("Write a message")
            print(f"{'machine panel':<28}{'tokens/s':>9}{'CPU cores':>11}")
            for is_shown, each in measure_panel(terminal, rounds).items():
                tps, share = (statistics.median(column) for column in zip(*each, strict=True))
                print(f"{'shown' if is_shown else 'hidden':<28}{tps:>9.1f}{share:>11.2f}")
            terminal.type(CTRL_Q)
            terminal.wait()
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
