"""Ctrl-C during long waits."""

from __future__ import annotations

import signal


def interruptible() -> None:
    """Restore Python's handling of Ctrl-C for waits on threads and locks; call it after importing polars.

    polars handles SIGINT itself and makes interrupted system calls restart. The main thread, waiting for a
    server's answer, would then notice Ctrl-C only when the answer arrives.
    """
    if hasattr(signal, "siginterrupt"):  # Windows has none, and no such waits either
        signal.siginterrupt(signal.SIGINT, True)
