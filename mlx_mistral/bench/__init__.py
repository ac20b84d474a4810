"""Speed, memory and the share of the machine's limits that a model reaches."""

from .bandwidth import Bandwidth, memory_bandwidth
from .cases import Case, cases_for
from .program import Program, Trial
from .results import Comparison, Result, compare
from .run import run_cases
from .system_info import machine_card, versions
from .traffic import Work, work_of

__all__ = [
    "Bandwidth",
    "Case",
    "Comparison",
    "Program",
    "Result",
    "Trial",
    "Work",
    "cases_for",
    "compare",
    "machine_card",
    "memory_bandwidth",
    "run_cases",
    "versions",
    "work_of",
]
