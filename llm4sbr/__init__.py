"""Session-based recommendation that a large language model makes better and never slows down.

`run` brings a run up to date, `load` opens one to recommend from, `create` makes a component by name.
Importing this package loads none of torch, transformers or polars.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm4sbr.api import load, run
    from llm4sbr.protocols import PLUGIN_API
    from llm4sbr.registry import create

    __version__: str

_HOMES = {"run": "api", "load": "api", "create": "registry", "PLUGIN_API": "protocols"}

__all__ = ["PLUGIN_API", "__version__", "create", "load", "run"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("llm4sbr")
    if name in _HOMES:
        return getattr(import_module(f"llm4sbr.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'llm4sbr' has no attribute {name!r}")
