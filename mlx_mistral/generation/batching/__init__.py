"""Several texts decoded together, each as if it were alone."""

from .generator import BatchGenerator, NewToken

__all__ = ["BatchGenerator", "NewToken"]
