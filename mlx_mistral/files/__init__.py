"""Files that a stranger wrote: opened, bounded and parsed before anything trusts them."""
