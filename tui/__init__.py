"""The terminal chat: a Textual program that drives a model through `mlx_mistral.live.protocol`."""
