"""Finds a served model's intents: from its own graph, or from the run that it was exported from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import StoreError
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.predicted import Predicted
from llm4sbr.serving.recommendation import Explanation

if TYPE_CHECKING:
    from llm4sbr.serving.recommend import Recommender


class KnownSessions:
    """Finds intents for a session, from what this server has.

    Args:
        artefact: the model.
        folder: of the artefact.
        run: what it was exported from, if that is at hand. A model that takes intents then gets those that
            `llm4sbr recommend` would find, the LLM's or predicted ones, by torch.

    Raises:
        StoreError: the run is damaged, or has another catalogue now.
    """

    def __init__(self, artefact: Artefact, folder: Path, run: Path | None) -> None:
        self.artefact = artefact
        self.predicted = Predicted(artefact, folder) if artefact.intent_mode == "predictor" else None
        self.trained, _, seed = str(artefact.record.get("trained", artefact.intent_mode)).partition("/seed-")
        """The run's model that was exported."""
        self.seed = int(seed) if seed.isdecimal() else None
        self.recommender = self._open(run) if run is not None and artefact.intent_mode == "intents" else None

    def find(self, ids: Sequence[int]) -> tuple[NDArray[np.float32] | None, Explanation | None]:
        """Intents float32 (1, P, E), None if the model uses none, and their source."""
        artefact = self.artefact
        if artefact.intent_mode == "predictor":
            return None, Explanation(artefact.source)
        if artefact.intent_mode != "intents":
            return None, None
        if self.recommender is not None:
            vectors, explained = self.recommender.intents(ids, "auto")
            if vectors is not None:
                return vectors.numpy(), explained
        zeros = np.zeros((1, len(artefact.perspectives), artefact.text_dim), np.float32)
        return zeros, Explanation("none")

    def _open(self, run: Path) -> Recommender | None:
        """The trained model; None if the run has kept only its export."""
        if not (run / "train" / self.trained / f"seed-{self.seed}").exists():
            return None
        from llm4sbr.data.prepared import catalogue_hash
        from llm4sbr.serving.recommend import Recommender

        refitted = bool(self.artefact.record.get("refitted", False))
        found = Recommender.load(run, variant=self.trained, seed=self.seed, refitted=refitted)
        if catalogue_hash(found.catalogue) != self.artefact.record["catalogue"]:
            raise StoreError(f"{run}: has another catalogue now than was exported; export again")
        return found
