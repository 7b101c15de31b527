"""Memory of this process: its peak over a span that can be begun anew, and how to keep it small and quick."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)


def reset_peak() -> None:
    """Begin a new span (Linux; elsewhere the peak stays that of the whole process)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes: the largest resident set since `reset_peak`."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def anonymous() -> int:
    """Bytes resident now that no file backs (Linux): without mapped files, which the system can take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) * 1024


def reuse_freed() -> None:
    """Let this process keep memory that it frees (glibc; elsewhere nothing happens).

    A training step takes and frees the same large blocks as the one before it. By default glibc returns
    them to the system, which then clears every page again: some hundred page faults per step.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 2**30)
        library.mallopt(_TRIM_THRESHOLD, 2**30)
