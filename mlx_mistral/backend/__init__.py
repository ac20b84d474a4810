"""The operations of a model that depend on the device.

`ops.py` has them as plain MLX operations, which is what Metal runs. `cpu/` overrides those that
MLX's CPU device computes slowly or not at all. `select.py` chooses between the two once.
No other package computes a model differently by device.
"""
