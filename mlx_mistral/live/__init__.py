"""A model at work on a thread of its own: commands go in, events come out.

`commands`, `events` and `protocol` know no MLX, so that a screen may import them.
"""
