"""Ctrl-C while something is waited for."""

from __future__ import annotations

import signal


def interruptible() -> None:
    """Let Ctrl-C end the wait for a thread or a lock, as Python has it; to be called when polars is loaded.

    polars, once imported, handles SIGINT itself and has the system take up again what a signal interrupts. A
    main thread that waits for an answer of a server would then not hear of it before the answer comes.
    """
    if hasattr(signal, "siginterrupt"):  # Windows has none, and no such waits either
        signal.siginterrupt(signal.SIGINT, True)
