"""Official weights to a quantized folder: read, quantized and written a slab at a time."""
