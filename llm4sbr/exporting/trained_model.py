"""Loads the trained model from which an artefact is made, and with which it is compared."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from llm4sbr import stamps, store
from llm4sbr.config.in_force import check_readable
from llm4sbr.data.batches import Batch, collate
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.exporting.verification import Inputs, Reference
from llm4sbr.fusion.saved import SavedModel
from llm4sbr.intents import IntentStore
from llm4sbr.intents.texts import items_of
from llm4sbr.protocols import Samples
from llm4sbr.training.linear import Opened, open_model
from llm4sbr.training.trained import Trained

CALIBRATION = 512
"""Number of real sessions on which value ranges are measured."""


class ReferenceModel(NamedTuple):
    """A trained model with its data."""

    prepared: Prepared
    saved: SavedModel
    trained: Trained
    intent_mode: str
    """`plain`, `intents`, `predictor` or `none`: where the artefact's intents come from."""
    intents: IntentStore | None
    """The known sessions' intents, if they are an input."""
    texts: Tensor | None = None
    """Title vectors, float32 (N, E), if intents are predicted and the run still has them."""

    @classmethod
    def of(
        cls,
        run: Path,
        *,
        variant: str | None = None,
        seed: int | None = None,
        intents: str | None = None,
        refitted: bool | None = None,
    ) -> ReferenceModel:
        """A model of a finished run.

        Args:
            run: the run directory.
            variant: which of its models, or a linear baseline; by default as `recommend` chooses.
            seed: which seed; by default the best on validation.
            intents: of a fused model, `input`, `predictor` or `none`; by default what it can do without help:
                predict them, where it has learned to, or look up those of the last item.
            refitted: its refit on all sessions or not; by default if there is one.

        Raises:
            InputError: there is no such model, or it takes no intents.
            StoreError: nothing is trained, files do not belong together, or there is nothing to test with.
        """
        check_readable(run)
        with stamps.naming_command(run):
            prepared = load(run / "prepare")
            alone = intents is None  # a baseline takes none
            trained, saved = open_model(
                run, prepared, variant=variant, seed=seed, refitted=refitted, baselines=alone
            )
        if saved.catalogue != catalogue_hash(prepared.catalogue):
            raise StoreError(f"{trained.folder}: of another catalogue than prepare has now; train again")
        if not len(prepared.samples["test"].key):
            raise StoreError(f"{run / 'prepare'}: no test samples to verify an export with")
        chosen = _intent_mode(saved, trained, intents)
        folder = run / "localize" / trained.variant
        known = IntentStore.open(folder) if chosen == "intents" and folder.exists() else None
        vectors = items_of(run / "localize", trained.variant)
        predicted = chosen == "predictor" and vectors.exists()
        texts = store.read_tensors(vectors)["items"] if predicted else None
        return cls(prepared, saved, trained, chosen, known, texts)

    @property
    def test(self) -> Samples:
        """What artefacts are verified on."""
        return self.prepared.samples["test"]

    @property
    def longest(self) -> int:
        """Most clicks in a session that the model has seen; earlier ones do not count."""
        every = self.prepared.samples.values()
        return max(int((one.end - one.start).max()) for one in every if len(one.key))

    @property
    def fingerprint(self) -> str:
        """Changes with the model, see `Opened.fingerprint`."""
        return Opened(self.trained, self.saved).fingerprint(self.prepared)

    def reference(self) -> Reference:
        """How to ask it with the inputs of an artefact, for test samples."""
        return Reference(self._scores, lambda batch: self._inputs(self.test, batch))

    def example(self) -> Inputs:
        """Inputs of real sessions, spread over the training part."""
        samples = self.prepared.samples["train"]
        count = len(samples.key)
        index = torch.linspace(0, count - 1, min(count, CALIBRATION)).long()
        batch = collate(self.prepared.sessions, samples, index)
        return self._inputs(samples, batch) | {"exclude_seen": torch.zeros(len(index), 1, dtype=torch.bool)}

    def _inputs(self, samples: Samples, batch: Batch) -> Inputs:
        found = {"items": batch.items, "mask": batch.mask}
        if self.intent_mode == "intents":
            found["intents"] = self._gather(Samples(*(part[batch.index] for part in samples)))
        return found

    def _gather(self, samples: Samples) -> Tensor:
        """The intents of B samples, float32 (B, P, E)."""
        if self.intents is None:
            return torch.zeros(
                len(samples.key), len(self.saved.recipe.perspectives), self.saved.recipe.text_dim
            )
        return self.intents.gather(self.intents.rows_of(self.prepared.sessions, samples))

    def _scores(self, inputs: Inputs) -> Tensor:
        predict = self.intent_mode == "predictor"
        with torch.inference_mode():
            scores: Tensor = self.saved.model(
                inputs["items"], inputs["mask"], inputs.get("intents"), predict=predict
            )
        return scores


def _intent_mode(saved: SavedModel, trained: Trained, intents: str | None) -> str:
    if saved.recipe.fuser is not None:
        if intents is None:
            without = trained.variant == "none"  # trained without intents
            return "predictor" if saved.model.own_source else "none" if without else "intents"
        return "intents" if intents == "input" else intents
    if intents is not None:
        raise InputError(f"intents {intents}: the model is a plain backbone and takes none")
    return "plain"
