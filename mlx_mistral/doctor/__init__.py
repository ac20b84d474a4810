"""Checks of the machine that the program runs on: operations, models, memory and bandwidth."""

from .check import Check, Measurement, Probe, Unit, run_probes


__all__ = ["Check", "Measurement", "Probe", "Unit", "run_probes"]
