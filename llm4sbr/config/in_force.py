"""The settings in force in a run: what somebody chose, and behind it what protocol and components suggest."""

from __future__ import annotations

from pathlib import Path

from llm4sbr import registry
from llm4sbr.config import PROTOCOLS, Config, Settings, build, components, nest, read_toml
from llm4sbr.config.files import with_full_paths
from llm4sbr.config.types import without_defaults
from llm4sbr.errors import RegistryError

RESOLVED = "resolved.toml"
"""Every value in force, as a file of the run."""


def configure(run: Path | None, chosen: Settings) -> tuple[Settings, Config]:
    """What is chosen for a run, and every value in force.

    Args:
        run: the run directory; settings chosen there before hold where `chosen` is silent.
        chosen: settings of the command line, already merged.

    Returns:
        The settings somebody chose, and the configuration, in which the protocol, and behind it the chosen
        components' suggestions, fill what nobody chose. If a component has gone since, what was in force
        when the run was last brought up to date, unless something else is chosen now.
    """
    before, given = (run / "config.toml" if run else None), chosen
    if before and before.exists():
        chosen = components.added(read_toml(before), chosen)
    chosen = with_full_paths(without_defaults(chosen))
    try:
        return chosen, _in_force(chosen)
    except RegistryError:
        if given or run is None or not (run / RESOLVED).exists():
            raise
        return chosen, build(read_toml(run / RESOLVED))


def _in_force(chosen: Settings) -> Config:
    config = build(chosen)
    suggested = [
        nest(registry.suggestions("readers", config.data.reader)),
        nest(registry.suggestions("llms", config.infer.llm)),
        nest(PROTOCOLS[config.protocol]),
    ]
    return build(*suggested, chosen)


def default_run(chosen: Settings) -> Path:
    """`runs/DATASET-LLM`, or `runs/DATASET-LLM-PROTOCOL`: the run directory where none is named."""
    config = build(chosen)
    label = f"{config.data.reader}-{config.infer.llm}"
    label += "" if config.protocol == "default" else f"-{config.protocol}"
    return Path("runs") / "".join(c if c.isalnum() or c in "-._" else "-" for c in label)
