"""Fusers by which text reaches the catalogue: an intent speaks for items directly, not only as a gate.

With `gated` a shuffled intent serves nearly as well as the right one: a gate is one number per session and
perspective, and items are known by their ids alone, so that an item new in training cannot be found. Here
every item j also has its title's vector t_j, a constant out of stage `localize`, and the scores become

    score_j = backbone's score of the fused vector v + t_j . (text query of v and the intents)

The query's inner products are one matrix product, (B, E) with (E, N), beside the backbone's own score, which
is untouched: any backbone works, those with a score of their own too. That product is the cost in time, E / D
times the backbone's plain scoring. In memory and on disk the titles cost 2 N E bytes per model (float16: 9 MB
for 12,101 items of 384 numbers); they are saved with it, so that a model scores without its run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.fusion.fusers import Gated

FIRST_WEIGHT = 4.0
"""Weight of an intent's cosines to begin with. They differ by a few tenths, logits by a few units."""


class Titles(nn.Module):
    """The catalogue's text vectors: constants, zero until `fit`.

    Args:
        num_items: N.
        text_dim: E.
    """

    vectors: Tensor

    def __init__(self, num_items: int, text_dim: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(num_items, text_dim, dtype=torch.float16))

    def fit(self, vectors: Tensor) -> None:
        """Take over float (N, E), in catalogue order."""
        self.vectors.copy_(vectors)

    def forward(self, query: Tensor) -> Tensor:
        """Inner products of float (B, E) with every title, float (B, N)."""
        return query @ self.vectors.to(query.dtype).T

    def of(self, items: Tensor) -> Tensor:
        """The titles of items int64 (B, T), float (B, T, E); of the padding's 0 any one."""
        return self.vectors[(items - 1).clamp(min=0)].float()


class Weights(nn.Module):
    """A positive weight per perspective for what an intent says about titles.

    Args:
        perspectives: P.
    """

    def __init__(self, perspectives: int) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((perspectives,), FIRST_WEIGHT).log())

    def forward(self, intents: Tensor) -> Tensor:
        """The weighted sum of float (B, p, E), p <= P, over perspectives: float (B, E)."""
        weights = self.log[: intents.shape[1]].exp().unsqueeze(1)
        return (intents * weights).sum(1)


class Catalogue(nn.Module):
    """An item is its id embedding e_j plus a learned map M of its title's vector; intents score titles too.

        score_j = v . (e_j + M t_j) + sum_p w_p (i_p . t_j)    v = gated(behavioural, semantic)

    M begins at zero, with items that are their ids, and w_p > 0 at `FIRST_WEIGHT`. Because v . M t_j =
    (M^T v) . t_j, the items' sums are never made. A session without an intent is scored by the first term.
    E D + P parameters more than `gated`.

    Args:
        dim: D.
        perspectives: P.
        num_items: N.
        text_dim: E.
    """

    needs_catalogue = True

    def __init__(self, dim: int, perspectives: int, *, num_items: int, text_dim: int) -> None:
        super().__init__()
        self.vector = Gated(dim, perspectives)
        self.titles = Titles(num_items, text_dim)
        self.weights = Weights(perspectives)
        self.to_text = nn.Linear(dim, text_dim, bias=False)  # M^T
        nn.init.zeros_(self.to_text.weight)

    def fit(self, titles: Tensor) -> None:
        """Take over the catalogue's text vectors, float (N, E)."""
        self.titles.fit(titles)

    def texts(self, items: Tensor) -> Tensor:
        """The titles of items int64 (B, T), float (B, T, E), for the predictor of intents."""
        found: Tensor = self.titles.of(items)
        return found

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D), as `gated`."""
        fused: Tensor = self.vector(behavioural, semantic)
        return fused

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """Add what text says to float (B, N); `fused` (B, D), `intents` (B, p, E) with p <= P."""
        added: Tensor = scores + self.titles(self.query(fused, intents))
        return added

    def query(self, fused: Tensor, intents: Tensor | None) -> Tensor:
        """What titles are multiplied with, float (B, E); arguments as for `rescore`."""
        query: Tensor = self.to_text(fused)
        return query if intents is None else query + self.weights(intents)


class TextMetric(nn.Module):
    """Intents score titles, by their cosine and by a learned metric of low rank; items keep to their ids.

        score_j = v . e_j + sum_p w_p (i_p . t_j) + (V sum_p w_p i_p) . (U t_j)    v = gated(...)

    The cosine finds what is called alike. The metric, which need not be symmetric, learns what goes with
    what (a shampoo with its conditioner), and what does not follow although it is called alike (the session's
    own items). 2 E R + P parameters more than `gated`; U begins near zero.

    Args:
        dim: D.
        perspectives: P.
        num_items: N.
        text_dim: E.
        rank: R, rows of V and of U.
    """

    needs_catalogue = True

    def __init__(self, dim: int, perspectives: int, *, num_items: int, text_dim: int, rank: int = 64) -> None:
        super().__init__()
        self.vector = Gated(dim, perspectives)
        self.titles = Titles(num_items, text_dim)
        self.weights = Weights(perspectives)
        self.into = nn.Linear(text_dim, rank, bias=False)  # V
        self.back = nn.Linear(rank, text_dim, bias=False)  # U^T
        nn.init.uniform_(self.into.weight, -(text_dim**-0.5), text_dim**-0.5)
        nn.init.normal_(self.back.weight, std=1e-3)

    def fit(self, titles: Tensor) -> None:
        """Take over the catalogue's text vectors, float (N, E)."""
        self.titles.fit(titles)

    def texts(self, items: Tensor) -> Tensor:
        """The titles of items int64 (B, T), float (B, T, E), for the predictor of intents."""
        found: Tensor = self.titles.of(items)
        return found

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D), as `gated`."""
        fused: Tensor = self.vector(behavioural, semantic)
        return fused

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """Add what the intents (B, p, E), p <= P, say to float (B, N); nothing where there are none."""
        if intents is None:
            return scores
        added: Tensor = scores + self.titles(self.query(fused, intents))
        return added

    def query(self, fused: Tensor, intents: Tensor | None) -> Tensor:
        """What titles are multiplied with, float (B, E); arguments as for `rescore`."""
        if intents is None:
            return fused.new_zeros(len(fused), self.titles.vectors.shape[1])
        told: Tensor = self.weights(intents)
        query: Tensor = told + self.back(self.into(told))
        return query
