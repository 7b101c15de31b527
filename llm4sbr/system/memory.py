"""Measures this process's peak memory, recognises out-of-memory errors, and tunes memory allocation."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt(3)
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25  # of madvise(2)
_HUGE = 2**21  # bytes of a huge page
_SHORT = (
    *("OutOfMemoryError", "can't allocate memory", "not enough memory"),  # in PyTorch's messages
    *("Cannot allocate memory", "std::bad_alloc", "failed to map segment", "can't start new thread"),
    *("memory allocation of", "Failed to allocate memory"),
    "error return without exception set",  # of an extension whose exception found no memory
)


def reset_peak() -> None:
    """Start a new measurement (Linux; elsewhere the peak is that of the whole process)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Largest resident memory since `reset_peak`, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    except (OSError, StopIteration):
        return _largest("RUSAGE_SELF")


def peak_of_children() -> int:
    """Bytes: the largest resident set of any child process that has ended; 0 if the system does not say."""
    return _largest("RUSAGE_CHILDREN")


def _largest(whose: str) -> int:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(getattr(resource, whose)).ru_maxrss * unit)


def total() -> int:
    """Bytes of memory that this machine has; 0 where the system does not say (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def anonymous() -> int:
    """Resident memory in bytes without mapped files, which the system can reclaim (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) * 1024


def shortage(error: BaseException) -> str:
    """Advice for an out-of-memory error; "" for any other error."""
    message = f"{type(error).__name__}: {error}"
    short = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if not short and not any(sign in message for sign in _SHORT):
        return ""
    wanted = re.search(r"allocate (\d[\d.]* ?\w+)", message)
    amount = f" to allocate {wanted[1]}" if wanted else ""
    return (
        f"not enough memory{amount}; lower train.batch_size, train.dim or evaluate.batch_size, or train "
        "fewer models at once with train.workers=1; finished work is kept"
    )


def reuse_freed() -> None:
    """Make this process keep memory that it frees (glibc; elsewhere nothing happens).

    Every training step allocates and frees the same large blocks. By default glibc returns them to the
    system, which must clear every page before the next use: some hundred page faults per step.
    """
    with suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        if not library.mallopt(_MMAP_THRESHOLD, 2**30):  # before version 2.35, 32 MB is the maximum
            library.mallopt(_MMAP_THRESHOLD, 2**25)
        library.mallopt(_TRIM_THRESHOLD, 2**30)


def use_huge_pages(*, least: int = 2**24) -> None:
    """Move this process's large memory blocks to huge pages (Linux; elsewhere nothing happens).

    Each recommendation reads the whole item table. With pages of 4 kB the processor spends a quarter to a
    third of that time on address translation. Takes one or two seconds per gigabyte, once.

    Args:
        least: minimum size in bytes; smaller blocks, and blocks that are partly unused, are left as they are.
    """
    with suppress(AttributeError, OSError, ValueError):
        library = ctypes.CDLL(None)
        for start, end in _blocks(least):
            first, last = -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE
            for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                library.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def _blocks(least: int) -> Iterator[tuple[int, int]]:
    """First and last address of private writable memory without a file that is at least 90% resident."""
    start = end = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            start, end = (int(word, 16) for word in words[0].split("-"))
            if words[1] != "rw-p" or len(words) > 5:
                end = start
        elif words[0] == "Rss:" and end - start >= least and int(words[1]) * 1024 >= 0.9 * (end - start):
            yield start, end
