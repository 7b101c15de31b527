"""The localizer `candidates`: an answer chooses among items that co-occurrence proposes for its session."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.localizers.nearest import Nearest, with_text
from llm4sbr.protocols import Baseline, Catalogue, Encoder, Localization, Sessions

BLOCK = 1024
"""Samples processed at once."""


class Candidates:
    """Ties an answer to the f most similar items among its session's candidates.

    Candidates are what a baseline, fitted on training sessions, recommends after the session. With the
    perspective `choose` the LLM sees the same list. A session without candidates is localized as by
    `nearest`.

    Args:
        f: items per answer, F; with f = 0 the answer's own vector is kept.
        size: candidates per session.
        model: the baseline that proposes them.

    Raises:
        ConfigError: a negative f, or fewer candidates than f.
    """

    needs_sessions = True

    def __init__(self, f: int = 5, *, size: int = 20, model: str = "item-knn") -> None:
        if size < max(f, 1):
            raise ConfigError(f"localize.options.size = {size}: expected at least f = {f} candidates")
        self._nearest = Nearest(f)
        self.f = f
        self.size = size
        self.model = model
        self._proposer: Baseline | None = None

    def fit(self, answers: Sequence[str], sessions: Sessions, catalogue: Catalogue, encoder: Encoder) -> None:
        """Fit the baseline on the training sessions."""
        self._proposer = registry.create("baselines", self.model, num_items=catalogue.size)
        if getattr(self._proposer, "needs_text", False):
            raise ConfigError(
                f"localize.options.model = {self.model!r} ranks by texts; take one such as item-knn"
            )
        self._proposer.fit(sessions)

    def localize(
        self,
        answers: Sequence[str],
        catalogue: Catalogue,
        encoder: Encoder,
        sessions: Tensor | None = None,
    ) -> Localization:
        """Localize M answers.

        Args:
            answers: one per session.
            catalogue: its titles are the items' texts.
            encoder: encodes answers and titles.
            sessions: int64 (M, T), right-padded prefixes; without them all answers go to `nearest`.
        """
        found = self._nearest.localize(answers, catalogue, encoder)
        if sessions is None or self._proposer is None or not self.f:
            return found
        titles = with_text(encoder.encode(catalogue.titles), catalogue)
        for start in range(0, len(answers), BLOCK):
            part = slice(start, start + BLOCK)
            texts = answers[part]
            given = torch.tensor([bool(text.strip()) for text in texts])
            score, proposed = self._propose(sessions[part], catalogue.size)
            vectors = encoder.encode(texts)
            similarity = cosine_similarity(vectors.unsqueeze(1), titles[proposed], dim=2)
            silent = (score <= 0) | ~titles[proposed].any(2)
            similarity = similarity.masked_fill(silent, -torch.inf)
            best, place = similarity.topk(min(self.f, similarity.shape[1]), dim=1)
            weights = best.softmax(1).nan_to_num(0.0)
            rows = (given & (weights.sum(1) > 0) & (vectors.norm(dim=1) > 0)).nonzero().squeeze(1)
            items = (proposed.gather(1, place) + 1).masked_fill(weights == 0, 0)
            at, width = rows + start, weights.shape[1]
            found.items[at], found.weights[at] = 0, 0.0
            found.items[at, :width], found.weights[at, :width] = items[rows], weights[rows]
            mixed = (weights.unsqueeze(2) * titles[proposed.gather(1, place)]).sum(1)
            found.embeddings[at] = mixed[rows]
        return found

    def _propose(self, sessions: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
        """Scores float (m, size) and rows int64 (m, size) of the candidates; a score of 0 means none."""
        assert self._proposer is not None
        scores = self._proposer.score(sessions, sessions > 0)
        padded = torch.cat([scores.new_zeros(len(scores), 1), scores], 1)  # column 0 takes the padding
        scores = padded.scatter(1, sessions, 0.0)[:, 1:]  # exclude the session's own items
        return scores.topk(min(self.size, num_items), dim=1)
