"""Checks of the machine that the program runs on: operations, models, memory and bandwidth."""

from .check import Check, Measurement, Probe, Unit, run_probes
from .probes import all_probes, free_memory
from .setup import Setup

__all__ = [
    "Check",
    "Measurement",
    "Probe",
    "Setup",
    "Unit",
    "all_probes",
    "free_memory",
    "run_probes",
]
