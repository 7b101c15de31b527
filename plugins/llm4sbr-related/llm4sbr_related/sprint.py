"""SPRINT (Lee et al. 2025), what the core lacks of it: a pool of intents, validated by what they predict.

    z_c = (mean over i in I_c of c . t_i - m) / sqrt(v / |I_c|)

I_c are the next items of the training sessions whose answer is tied to the intent c, t_i their title vectors,
m and v mean and variance of c . t_i over the next items of all training sessions with an answer. An intent is
valid if z_c exceeds a bound: then what follows its sessions is more like it than what follows any session.

In SPRINT (arXiv 2508.00570) the LLM chooses intents from a global pool, an intent is kept if with it the LLM
predicts the next item, only uncertain sessions are asked about, and a predictor serves all others. Here the
pool are the centres of the answers (localizer `pool`), uncertain sessions are chosen by
`infer.select=uncertain` within a budget, and the predictor is that of the core.

Differences from the paper: an intent is tested on all of its training sessions at once by a statistic, not
for each session by asking the LLM again, which costs no prompt; no answer is asked for a second time where it
fails; sessions without a valid intent have none, so that the predictor's takes its place, where the paper
takes those of similar sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr.errors import ConfigError
from llm4sbr.localizers.nearest import top, with_text
from llm4sbr.localizers.pool import Pool
from llm4sbr.protocols import Catalogue, Encoder, Localization, Sessions


class ValidatedPool:
    """The localizer `pool` with its valid intents only; an answer tied to another one means no intent.

    Args:
        f: valid intents per answer, and items per mixture, F. With f = 0 valid answers keep their vectors.
        size: number of intents in the pool, before their validation.
        seed: seed of the initial intents.
        least: the bound of z. 1.64: one in twenty would pass by chance.

    Raises:
        ConfigError: a negative f, or a size below 1.
    """

    needs_targets = True

    def __init__(self, f: int = 5, *, size: int = 256, seed: int = 0, least: float = 1.64) -> None:
        self.f, self.least = f, least
        self.pool = Pool(f, size=size, seed=seed)
        self.every = torch.zeros(0, 0)
        """float32 (size, E), all intents of the pool."""
        self.valid = torch.zeros(0, dtype=torch.bool)
        """bool (size,)."""
        self.facts: dict[str, Any] = {}

    def fit(
        self,
        answers: Sequence[str],
        sessions: Sessions,
        catalogue: Catalogue,
        encoder: Encoder,
        *,
        targets: Tensor,
    ) -> None:
        """Build the pool from the answers to training samples, and validate it.

        Args:
            answers: n answers.
            sessions: the training sessions.
            catalogue: its titles are the items' texts.
            encoder: encodes answers and titles.
            targets: int64 (n,), the next item, catalogue ids 1..N, after the sample of each answer.

        Raises:
            ConfigError: no answer has a text, so that there is no pool.
        """
        self.pool.fit(answers, sessions, catalogue, encoder)
        self.every = self.pool.centres
        if not len(self.every):
            raise ConfigError(
                "localize.localizer = validated-pool: no answer to a training sample has a text"
            )
        distinct = list(dict.fromkeys(text for text in answers if text.strip()))
        nearest = dict(zip(distinct, self._nearest(encoder.encode(distinct)).tolist(), strict=True))
        given = [row for row, text in enumerate(answers) if text.strip()]
        intents = torch.tensor([nearest[answers[row]] for row in given])
        titles = normalize(with_text(encoder.encode(catalogue.titles), catalogue), dim=1)
        found = scores(self.every, titles, intents, targets[given])
        self.valid = found > self.least
        self.pool.centres = self.every[self.valid]
        self.facts = {"intents": len(found), "valid": int(self.valid.sum())}

    def localize(self, answers: Sequence[str], catalogue: Catalogue, encoder: Encoder) -> Localization:
        """Localize M answers; `catalogue.titles` are the items' texts.

        Raises:
            ConfigError: f is larger than the catalogue.
        """
        found = self.pool.localize(answers, catalogue, encoder)
        given = [row for row, text in enumerate(answers) if text.strip()]
        if given:
            tied = self._nearest(encoder.encode([answers[row] for row in given]))
            refused = torch.tensor(given)[~self.valid[tied]]
            found.embeddings[refused], found.items[refused], found.weights[refused] = 0, 0, 0
        return found

    def _nearest(self, vectors: Tensor) -> Tensor:
        """int64 (n,): the most similar intents, valid or not."""
        return top(vectors, self.every, 1)[1][:, 0]


def scores(intents: Tensor, titles: Tensor, tied: Tensor, targets: Tensor) -> Tensor:
    """float32 (C,): z of every intent, see the module; minus infinity of one that no session is tied to.

    Args:
        intents: float32 (C, E), of length 1.
        titles: float32 (N, E), of length 1, or zero without a text.
        tied: int64 (n,), the intent of each training sample.
        targets: int64 (n,), its next item, catalogue ids 1..N.
    """
    shown, times = torch.unique(targets, return_counts=True)
    found = torch.full((len(intents),), -torch.inf)
    for place, intent in enumerate(intents):
        own = targets[tied == place]
        if len(own):
            like = (titles @ intent).double()
            every = like[shown - 1]
            mean = (every * times).sum() / times.sum()
            variance = ((every - mean).square() * times).sum() / times.sum()
            away = like[own - 1].mean() - mean
            found[place] = away / (variance / len(own)).sqrt() if variance > 0 else 0.0
    return found
