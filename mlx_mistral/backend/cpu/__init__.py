"""Overrides for MLX's CPU device, which is used for tests and on Linux."""
