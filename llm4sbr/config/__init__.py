"""The settings of a run: their tree, and the layers that they are built from."""

from llm4sbr.config.layers import Settings, flatten, merge, nest, parse_set, parse_values, read_toml
from llm4sbr.config.tree import (
    PROTOCOLS,
    Config,
    DataConfig,
    EvaluateConfig,
    InferConfig,
    LocalizeConfig,
    TrainConfig,
    build,
    departures,
    to_settings,
    to_toml,
)

__all__ = [
    "PROTOCOLS",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "InferConfig",
    "LocalizeConfig",
    "Settings",
    "TrainConfig",
    "build",
    "departures",
    "flatten",
    "merge",
    "nest",
    "parse_set",
    "parse_values",
    "read_toml",
    "to_settings",
    "to_toml",
]
