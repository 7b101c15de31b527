"""What an LLM said about known sessions, for a server that is given a run and not just its export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import StoreError
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.recommendation import Explanation, Source

if TYPE_CHECKING:
    from llm4sbr.serving.intents import LiveIntents

STORED: tuple[Source, ...] = ("cache", "nearest")
"""Where stored intents are looked for, in order."""


class Known:
    """Intents for a session, from where this server can have them.

    Args:
        artefact: the model.
        run: where it came from, if that is at hand; its stored intents are read with torch.

    Raises:
        StoreError: the run is damaged, or has another catalogue now.
    """

    def __init__(self, artefact: Artefact, run: Path | None) -> None:
        self.artefact = artefact
        self.live = _live(artefact, run) if run is not None and artefact.variant == "intents" else None

    def find(self, ids: Sequence[int]) -> tuple[NDArray[np.float32] | None, Explanation | None]:
        """Intents float32 (1, P, E), None if the model takes none, and where they came from."""
        artefact = self.artefact
        if artefact.variant == "predictor":
            return None, Explanation("predictor")
        if artefact.variant != "intents":
            return None, None
        if self.live is not None:
            for source in STORED:
                found = self.live.find(ids, source)
                if found:
                    return found[0].numpy(), found[1]
        zeros = np.zeros((1, len(artefact.perspectives), artefact.text_dim), np.float32)
        return zeros, Explanation("none")


def _live(artefact: Artefact, run: Path) -> LiveIntents | None:
    variant = str(artefact.record.get("trained", "")).partition("/seed-")[0]
    if not (run / "localize" / variant / "manifest.json").exists():
        return None
    from llm4sbr.data.prepared import catalogue_hash, load
    from llm4sbr.serving.recommend import live_intents

    prepared = load(run / "prepare")
    if catalogue_hash(prepared.catalogue) != artefact.record["catalogue"]:
        raise StoreError(f"{run}: has another catalogue now than was exported; export again")
    return live_intents(run, variant, prepared)
