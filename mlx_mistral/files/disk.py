"""Reads, writes and flushes of open files that work the same on Linux and macOS."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from pathlib import Path

MAX_CALL_BYTES = 1 << 30
"""Most bytes of one system call: macOS fails with EINVAL above INT_MAX, Linux stops before it.

Source: xnu, bsd/kern/sys_generic.c; CPython clamps `os.read`, but not `os.preadv`, `os.pread` and
`os.pwrite` (github.com/python/cpython/pull/1705).
"""
_FULL_FLUSH = 51
"""F_FULLFSYNC of macOS, which Python defines there only."""
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY)
"""Answers of network and foreign file systems to a flush that they do not know."""


def read_into(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer of bytes from an offset of a file, without a copy.

    Returns the bytes read: fewer than the buffer has only where the file ends. Raises: OSError.
    """
    n_read = 0
    while n_read < len(buffer):
        part = buffer[n_read : n_read + MAX_CALL_BYTES]
        count = os.preadv(descriptor, [part], offset + n_read)
        if not count:
            break
        n_read += count
    return n_read


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write a buffer of any format at an offset of a file. Raises: OSError."""
    if not data.nbytes:
        return
    data = data.cast("B")
    while data:
        count = os.pwrite(descriptor, data[:MAX_CALL_BYTES], offset)
        data, offset = data[count:], offset + count


def flush(descriptor: int, *, system: str = sys.platform) -> None:
    """Wait until the disk itself has what was written to a file. Raises: OSError.

    On macOS `fsync` ends when the drive has the data in its own memory, which a loss of power
    empties; F_FULLFSYNC waits for the drive. File systems without it get `fsync`.
    """
    if system == "darwin":
        try:
            fcntl.fcntl(descriptor, _FULL_FLUSH)
            return
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
    os.fsync(descriptor)


def flush_folder(descriptor: int) -> None:
    """Wait until the names in a folder are on the disk. Raises: OSError.

    Network file systems cannot: they answer EINVAL or ENOTSUP, and that is no error here.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def ignores_case(folder: Path) -> bool:
    """Return whether a folder's disk takes two spellings of a name for one, as APFS does."""
    other = folder.with_name(folder.name.swapcase())
    return other.name != folder.name and other.exists() and other.samefile(folder)
