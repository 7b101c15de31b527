"""The fuser `whitened`: intents score items by whitened title vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.fusion.fusers import Gated
from llm4sbr.fusion.titles import FIRST_WEIGHT, IntentWeights, TitleVectors

OWN_ITEMS_RATE = 50.0
"""Factor on the learning rate of `repeats`, as `titles.WEIGHTS_RATE`."""

BLOCK = 2**16
"""Titles that are whitened at once."""

MIN_DEVIATION = 1e-2
"""Lower limit of an axis' standard deviation, relative to the largest: below it, variation is noise."""


class Whitening(nn.Module):
    """Whitens text vectors by the catalogue's titles: centred, decorrelated, unit length.

        f(t) = u / |u|,    u = A^T (t - m)

    with m the mean title vector and A the titles' R strongest principal axes, each divided by its standard
    deviation. Sentence encoders map all titles of a shop to a narrow cone; whitening emphasises what
    distinguishes them (Su et al. 2021, arXiv 2103.15316). Constants, zero until `fit`.

    Args:
        text_dim: E.
        rank: R, at most E.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, text_dim: int, rank: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(text_dim))
        self.register_buffer("axes", torch.zeros(text_dim, rank))

    def fit(self, titles: Tensor) -> None:
        """Compute mean and axes of the titles float (N, E)."""
        blocks = torch.split(titles, BLOCK)
        mean = sum((one.double().sum(0) for one in blocks[1:]), blocks[0].double().sum(0)) / len(titles)
        products = torch.zeros(titles.shape[1], titles.shape[1], dtype=torch.float64)
        for one in blocks:
            rows = one.double() - mean
            products += rows.T @ rows
        squares, directions = torch.linalg.eigh(products)  # ascending
        deviation = squares.clamp(min=1e-12).sqrt()
        relative = (deviation / deviation[-1]).clamp(min=MIN_DEVIATION)
        self.mean.copy_(mean)
        self.axes.copy_((directions / relative)[:, -self.axes.shape[1] :])

    def forward(self, vectors: Tensor) -> Tensor:
        """Float (..., E) -> (..., R) of length 1."""
        return functional.normalize((vectors - self.mean) @ self.axes, dim=-1)

    def back(self, whitened: Tensor) -> Tensor:
        """Float (..., R) -> (..., E), a vector whose whitening is the input; its original length is lost."""
        lengths = self.axes.square().sum(0).clamp(min=1e-12)  # the axes are orthogonal
        return self.mean + whitened @ (self.axes / lengths).T


class Whitened(nn.Module):
    """Intents score titles in whitened space; item embeddings count by the item's number of clicks.

        score_j = k_j (v . e_j) + a log n_j + z_j . (M v + (I + B) sum_p w_p x_p)
        z_j = f(t_j), x_p = f(i_p)    v = dropout(gated(behavioural, semantic))

    with f as in `Whitening` and n_j the clicks of item j in training (at least 1/2). a, initially 1, weighs
    the popularity, so that an intent expresses how much more likely than usual an item is. k_j = n_j / (n_j +
    c) shrinks the score from the item embedding of rare items; in training it is instead the probability that
    the embedding is used at all, drawn once per batch, so that the text terms learn to do without it (as in
    DropoutNet, Volkovs et al. 2017). B, initially zero, learns which titles go together although they are not
    similar. Dropout matters most: without it training overfits after two epochs. A session's own items are
    the most similar to it, so `repeats`, a number added to their scores, learns quickly how often users click
    them again. D R + R^2 + P + 2 parameters more than `gated`, and (2 R + 8) N bytes of constants.

    Args:
        dim: D.
        perspectives: P.
        num_items: N.
        text_dim: E.
        rank: R, at most E.
        dropout: dropout rate of v, and of the input of B.
        shrinkage: c, the number of clicks at which an item embedding counts half.
    """

    needs_catalogue = True
    popularity: Tensor
    keep: Tensor

    tunes = {"dropout": (0.0, 0.9), "rank": [64, 128, 256], "shrinkage": (0.1, 10.0, "log")}

    def __init__(
        self,
        dim: int,
        perspectives: int,
        *,
        num_items: int,
        text_dim: int,
        rank: int = 128,
        dropout: float = 0.7,
        shrinkage: float = 1.0,
    ) -> None:
        super().__init__()
        rank = min(rank, text_dim)
        self.shrinkage = shrinkage
        self.vector = Gated(dim, perspectives)
        self.dropout = nn.Dropout(dropout)
        self.whitening = Whitening(text_dim, rank)
        self.titles = TitleVectors(num_items, rank)
        self.weights = IntentWeights(perspectives, first=2 * FIRST_WEIGHT)
        self.metric = nn.Parameter(torch.zeros(rank, rank))  # B^T
        self.to_text = nn.Linear(dim, rank, bias=False)  # M
        nn.init.zeros_(self.to_text.weight)
        self.prior = nn.Parameter(torch.ones(()))  # a
        self.own = nn.Parameter(torch.zeros(()))
        self.register_buffer("popularity", torch.zeros(num_items))
        self.register_buffer("keep", torch.ones(num_items))

    def fit(self, titles: Tensor, clicks: Tensor) -> None:
        """Store the catalogue's text vectors, float (N, E), and its clicks in training, int64 (N,).

        Axes that a warm start brought stay, since `to_text` and `metric` refer to them.
        """
        if not self.whitening.axes.any():
            self.whitening.fit(titles)
        for start in range(0, len(titles), BLOCK):
            block = titles[start : start + BLOCK].to(self.whitening.mean.dtype)
            self.titles.vectors[start : start + BLOCK] = self.whitening(block)
        logs = clicks.double().clamp(min=0.5).log()
        self.popularity.copy_(logs - logs.mean())
        self.keep.copy_(clicks / (clicks + self.shrinkage))

    @property
    def repeats(self) -> Tensor:
        """Scalar added to the scores of a session's own items."""
        return self.own * OWN_ITEMS_RATE

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D), as `gated`, with dropout."""
        fused: Tensor = self.dropout(self.vector(behavioural, semantic))
        return fused

    def texts(self, items: Tensor) -> Tensor:
        """Title vectors of items int64 (B, T), float (B, T, E), approximated from R numbers."""
        return self.whitening.back(self.titles.of(items))

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """Shrink the backbone's scores float (B, N) by k_j, and add the text and popularity terms."""
        keep = torch.bernoulli(self.keep) if self.training else self.keep
        added: Tensor = (
            scores * keep + self.prior * self.popularity + self.titles(self._query(fused, intents))
        )
        return added

    def factors(self, items: Tensor) -> list[Tensor]:
        """Tables for `queries`: shrunk item embeddings float (N, D), titles and popularity (N, R + 1)."""
        titles = self.titles.vectors.to(items.dtype)
        return [items * self.keep.unsqueeze(1), torch.cat([titles, self.popularity.unsqueeze(1)], 1)]

    def factors_of_new(self, vectors: Tensor) -> list[Tensor]:
        """As `factors`, of items without a click, by text vectors float (n, E); their popularity is 0."""
        titles = self.whitening(vectors.to(self.whitening.mean.dtype))
        titles = titles.to(self.titles.vectors.dtype).float()  # rounded as the others
        none = titles.new_zeros(len(titles), 1)
        return [none.expand(-1, self.to_text.in_features), torch.cat([titles, none], 1)]

    def queries(self, fused: Tensor, intents: Tensor | None) -> list[Tensor]:
        """Queries for items float (B, D), for titles and popularity (B, R + 1); arguments as in `rescore`."""
        prior = self.prior.expand(fused.shape[0], 1)
        return [fused, torch.cat([self._query(fused, intents), prior], 1)]

    def _query(self, fused: Tensor, intents: Tensor | None) -> Tensor:
        query: Tensor = self.to_text(fused)
        return query if intents is None else query + self._intent_query(intents)

    def _intent_query(self, intents: Tensor) -> Tensor:
        """Query on titles from intents (B, p, E), p <= P: (B, R), zero for zero intents."""
        known = intents.abs().sum(2, keepdim=True) > 0
        query: Tensor = self.weights(self.whitening(intents) * known)
        learned: Tensor = self.dropout(query) @ self.metric
        return query + learned
