"""Session-based recommendation that a large language model makes better and never slows down.

`run` brings a run up to date, `load` opens one to recommend from, `create` creates a component by name; the
other public functions correspond to the remaining commands.
Importing this package imports neither torch nor transformers nor polars.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm4sbr.api import (
        experiment,
        export,
        load,
        plan,
        plan_baselines,
        refit,
        run,
        serve,
        settings,
        tune,
        update,
        write_report,
    )
    from llm4sbr.protocols import PLUGIN_API
    from llm4sbr.registry import components, create
    from llm4sbr.scaffold import new_plugin

    __version__: str

_API = (
    *("run", "load", "plan", "plan_baselines", "settings", "refit", "update", "tune", "export", "serve"),
    *("write_report", "experiment"),
)
_HOMES = dict.fromkeys(_API, "api")
_HOMES |= {
    "create": "registry",
    "components": "registry",
    "PLUGIN_API": "protocols",
    "new_plugin": "scaffold",
}

__all__ = [
    "PLUGIN_API",
    "__version__",
    "components",
    "create",
    "experiment",
    "export",
    "load",
    "new_plugin",
    "plan",
    "plan_baselines",
    "refit",
    "run",
    "serve",
    "settings",
    "tune",
    "update",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("llm4sbr")
    if name in _HOMES:
        return getattr(import_module(f"llm4sbr.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'llm4sbr' has no attribute {name!r}")
