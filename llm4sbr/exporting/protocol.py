"""The protocol of exporters; conventions and letters as in `protocols`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@runtime_checkable
class Scorer(Protocol):
    """A loaded artefact."""

    provider: str
    """The execution provider in use: `cpu`, `cuda`, `tensorrt`."""

    def score(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Item ids int64 (B, K) and scores float32 (B, K) for `items`, `mask`, `exclude_seen`, `intents`."""
        ...


class ExportSpec(NamedTuple):
    """What to export."""

    k: int
    """K."""
    intent_mode: str
    """Where intents come from: `plain`, `intents` (an input), `predictor` or `none`."""
    precision: str
    """One of the exporter's `precisions`."""
    max_batch: int
    """Maximum number of sessions per request, for formats that need it."""
    max_length: int
    """Maximum number of clicks per session."""
    about: Mapping[str, str]
    """Metadata to store in the artefact: `fingerprint`, `catalogue` and more."""
    recall: float = 0.99
    """Least share of the K best items that an index finds, for the precision `index`."""


@runtime_checkable
class Exporter(Protocol):
    """Writes a trained model in one format and loads it again. Constructor: `provider`, own options."""

    suffix: str
    """Suffix of the path; "" for a folder."""
    precisions: tuple[str, ...]
    """Supported precisions; the first one is the default."""

    def export(self, model: object, example: Mapping[str, Tensor], path: Path, *, spec: ExportSpec) -> None:
        """Write `path`, and further files in its folder if needed.

        Args:
            model: an `LLM4SBR` in evaluation mode, on the CPU; may be modified.
            example: the graph's inputs by name, from real sessions; value ranges are measured on them.
            path: in a folder that belongs to this artefact.
            spec: what to export.

        Raises:
            DeviceError: the format needs a missing device; files to continue on another machine are written.
        """
        ...

    def load(self, path: Path) -> Scorer:
        """Read `path`."""
        ...
