"""The localizer `pool`: an answer as a mixture of a few intents that many training answers share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr.errors import ConfigError
from llm4sbr.localizers.nearest import Nearest, top, with_text
from llm4sbr.protocols import Catalogue, Encoder, Localization, Sessions

ROUNDS = 25
"""Maximum number of iterations of k-means."""


class Pool:
    """Maps an answer to the nearest intents of a global pool, and their mixture to items.

    The pool consists of the centres of a spherical k-means (Dhillon and Modha 2001) over the vectors of the
    training answers, each weighted by its frequency. An answer becomes the softmax-weighted sum of its f most
    similar centres: it keeps what many answers have in common and loses what only one says.

    Args:
        f: centres per answer, and items per mixture, F. With f = 0 the answer's own vector is kept.
        size: number of centres; fewer if there are fewer distinct answers.
        seed: seed for the initial centres.

    Raises:
        ConfigError: a negative f or a size below 1.
    """

    def __init__(self, f: int = 5, *, size: int = 256, seed: int = 0) -> None:
        if size < 1:
            raise ConfigError(f"localize.options.size = {size}: expected at least 1 intent in the pool")
        self._nearest = Nearest(f)
        self.f = f
        self.size = size
        self.seed = seed
        self.centres = torch.zeros(0, 0)
        """float32 (size, E), unit length."""

    def fit(self, answers: Sequence[str], sessions: Sessions, catalogue: Catalogue, encoder: Encoder) -> None:
        """Build the pool from the answers to training samples."""
        counts: dict[str, int] = {}
        for answer in answers:
            if answer.strip():
                counts[answer] = counts.get(answer, 0) + 1
        vectors = normalize(encoder.encode(list(counts)), dim=1)
        weights = torch.tensor(list(counts.values()), dtype=torch.float32)
        self.centres = _centres(vectors, weights, self.size, self.seed)

    def localize(self, answers: Sequence[str], catalogue: Catalogue, encoder: Encoder) -> Localization:
        """Localize M answers; `catalogue.titles` are the items' texts.

        Raises:
            ConfigError: f is larger than the catalogue.
        """
        found = self._nearest.localize(answers, catalogue, encoder)
        given = [row for row, answer in enumerate(answers) if answer.strip()]
        if not (self.f and given and len(self.centres)):
            return found
        vectors = encoder.encode([answers[row] for row in given])
        similarity, index = top(vectors, self.centres, min(self.f, len(self.centres)))
        blind = ~similarity.isfinite().any(1, keepdim=True)
        weights = similarity.masked_fill(blind, 0).softmax(1).masked_fill(blind, 0)
        mixed = (weights.unsqueeze(2) * self.centres[index]).sum(1)
        titles = with_text(encoder.encode(catalogue.titles), catalogue)
        items, shares = _tied(mixed, titles, self.f)
        found.embeddings[given], found.items[given], found.weights[given] = mixed, items, shares
        return found


def _tied(vectors: Tensor, titles: Tensor, f: int) -> tuple[Tensor, Tensor]:
    """The f items most similar to each vector, int64 (m, f), and softmax weights (m, f)."""
    similarity, index = top(vectors, titles, f)
    real = similarity.isfinite()
    weights = torch.where(real, similarity, -torch.inf).softmax(1).nan_to_num(0.0)
    return (index + 1).masked_fill(weights == 0, 0), weights


def _centres(vectors: Tensor, weights: Tensor, size: int, seed: int) -> Tensor:
    """Unit-length centres of weighted unit vectors (m, E); at most `size` and at most m."""
    if len(vectors) <= size:
        return vectors
    centres = _first_centres(vectors, weights, size, torch.Generator().manual_seed(seed))
    nearest = torch.full((len(vectors),), -1)
    for _ in range(ROUNDS):
        similarity, found = (vectors @ centres.T).max(1)
        if torch.equal(found, nearest):
            break
        nearest = found
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors * weights.unsqueeze(1))
        empty = sums.norm(dim=1) == 0
        lonely = similarity.argsort()[
            : int(empty.sum())
        ]  # an empty centre moves to the answer that fits its centre worst
        sums[empty] = vectors[lonely]
        centres = normalize(sums, dim=1)
    return centres


def _first_centres(vectors: Tensor, weights: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Initial centres, drawn by distance to earlier ones (k-means++, Arthur and Vassilvitskii 2007)."""
    drawn = [int(torch.multinomial(weights, 1, generator=generator))]
    far = torch.full((len(vectors),), torch.inf)
    for _ in range(size - 1):
        far = torch.minimum(far, 1 - vectors @ vectors[drawn[-1]]).clamp_min(0)
        far[drawn[-1]] = 0
        chance = (
            far * weights if bool((far * weights).any()) else weights.index_fill(0, torch.tensor(drawn), 0)
        )
        drawn.append(int(torch.multinomial(chance, 1, generator=generator)))
    return vectors[drawn]
