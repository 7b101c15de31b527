"""Loading with transformers: ask the hub once, and keep quiet about files that are here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


def probe(model: str, revision: str) -> None:
    """Ask the hub once; the loaders would try five times, half a minute, before they give up."""
    from huggingface_hub import HfApi

    HfApi().model_info(model, revision=revision, timeout=10)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting about local files; its settings are put back."""
    logging: Any = import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
