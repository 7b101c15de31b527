"""What an exporter looks like, and what it is asked for; protocols and letters as in `protocols`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


@runtime_checkable
class Scorer(Protocol):
    """An exported artefact, loaded."""

    provider: str
    """Who really computes: `cpu`, `cuda`, `tensorrt`."""

    def score(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Item ids int64 (B, K) and scores float32 (B, K) for `items`, `mask`, `exclude_seen`, `intents`."""
        ...


class ExportSpec(NamedTuple):
    """What an exporter is asked for."""

    k: int
    """K."""
    variant: str
    """Where intents come from: `plain`, `intents` (an input), `predictor` or `none`."""
    precision: str
    """One of the exporter's `precisions`."""
    max_batch: int
    """Most sessions in one request, where the format wants to know."""
    max_length: int
    """Most clicks in one session."""
    about: Mapping[str, str]
    """What the artefact must be able to say of itself: `fingerprint`, `catalogue` and more."""


@runtime_checkable
class Exporter(Protocol):
    """Writes a trained model in one format and reads it back. Constructor: `provider`, own options."""

    suffix: str
    """What the path ends in; "" for a folder."""
    precisions: tuple[str, ...]
    """First the one that is meant if nobody says."""

    def export(self, model: object, example: Mapping[str, Tensor], path: Path, *, spec: ExportSpec) -> None:
        """Write `path`, and files beside it if need be.

        Args:
            model: an `LLM4SBR` in evaluation mode, on the CPU; taken over.
            example: the graph's inputs by name, made of real sessions; also what ranges are measured on.
            path: inside a folder of the artefact's own.
            spec: what is asked for.

        Raises:
            DeviceError: the format needs a device that is not here; what it takes to go on is written.
        """
        ...

    def load(self, path: Path) -> Scorer:
        """Read `path`."""
        ...
