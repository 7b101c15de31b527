"""A fuser by which whitened title vectors, and what intents say about them, reach the catalogue."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.fusion.fusers import Gated
from llm4sbr.fusion.titles import FIRST_WEIGHT, IntentWeights, TitleVectors

REPEATS_HASTE = 50.0
"""The same for what is added to a session's own items."""

FLATTEST = 1e-2
"""Directions in which titles vary less than this share of the most are not stretched further: it is noise."""


class Whitening(nn.Module):
    """The catalogue's own coordinates in text space: centred, decorrelated, of length 1.

        f(t) = u / |u|,    u = A^T (t - m)

    with m the mean title and A the R strongest principal axes of the titles, each divided by the deviation
    along it. Sentence encoders put all titles of a shop into one narrow cone; here what sets titles apart
    counts. (Whitening of sentence vectors: Su et al. 2021, arXiv 2103.15316.) Constants, zero until `fit`.

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
        """Take mean and axes from float (N, E)."""
        rows = titles.double()
        mean = rows.mean(0)
        squares, directions = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # ascending
        deviation = squares.clamp(min=1e-12).sqrt()
        relative = (deviation / deviation[-1]).clamp(min=FLATTEST)
        self.mean.copy_(mean)
        self.axes.copy_((directions / relative)[:, -self.axes.shape[1] :])

    def forward(self, vectors: Tensor) -> Tensor:
        """Float (..., E) -> (..., R) of length 1."""
        return functional.normalize((vectors - self.mean) @ self.axes, dim=-1)

    def back(self, whitened: Tensor) -> Tensor:
        """Float (..., R) -> (..., E), a vector that is whitened into this one; how long it was is lost."""
        lengths = self.axes.square().sum(0).clamp(min=1e-12)  # the axes are orthogonal
        return self.mean + whitened @ (self.axes / lengths).T


class Whitened(nn.Module):
    """Intents score titles in whitened space; ids answer for items as far as training knows them.

        score_j = k_j (v . e_j) + a log n_j + z_j . (M v + (I + B) sum_p w_p x_p)
        z_j = f(t_j), x_p = f(i_p)    v = dropout(gated(behavioural, semantic))

    with f as in `Whitening`, n_j the clicks of item j in training (at least 1/2), and a = 1 to begin with: an
    intent then tells how much likelier than usual an item is. k_j = n_j / (n_j + c) is the trust in an id
    embedding; in training it is the chance that the id is asked at all, for all sessions of a batch, so that
    text learns to do without ids (as DropoutNet does, Volkovs et al. 2017). B begins at zero and learns
    what goes with what besides what is called alike. Dropout matters most: without it training is over after
    two epochs. What is called most like a session is what was clicked in it, so `repeats`, a number that is
    added to the scores of a session's own items, learns from zero, fast, how often people come back to them.
    D R + R^2 + P + 2 parameters more than `gated`, and (2 R + 8) N bytes of constants.

    Args:
        dim: D.
        perspectives: P.
        num_items: N.
        text_dim: E.
        rank: R; E if that is less.
        dropout: share of v's numbers, and of an intent's for B, that a training step goes without.
        trust: c, clicks after which an id is believed half.
    """

    needs_catalogue = True
    popularity: Tensor
    keep: Tensor

    def __init__(
        self,
        dim: int,
        perspectives: int,
        *,
        num_items: int,
        text_dim: int,
        rank: int = 128,
        dropout: float = 0.7,
        trust: float = 1.0,
    ) -> None:
        super().__init__()
        rank = min(rank, text_dim)
        self.trust = trust
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
        """Take over the catalogue's text vectors, float (N, E), and its clicks in training, int64 (N,)."""
        self.whitening.fit(titles)
        self.titles.fit(self.whitening(titles.to(self.whitening.mean.dtype)))
        logs = clicks.double().clamp(min=0.5).log()
        self.popularity.copy_(logs - logs.mean())
        self.keep.copy_(clicks / (clicks + self.trust))

    @property
    def repeats(self) -> Tensor:
        """What is added to the scores of a session's own items, a scalar."""
        return self.own * REPEATS_HASTE

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D), as `gated`, with dropout."""
        fused: Tensor = self.dropout(self.vector(behavioural, semantic))
        return fused

    def texts(self, items: Tensor) -> Tensor:
        """The titles of items int64 (B, T), float (B, T, E), as far as R numbers know them."""
        return self.whitening.back(self.titles.of(items))

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """Trust float (B, N) as far as ids are known, and add what text and clicks say."""
        keep = torch.bernoulli(self.keep) if self.training else self.keep
        added: Tensor = (
            scores * keep + self.prior * self.popularity + self.titles(self._query(fused, intents))
        )
        return added

    def factors(self, items: Tensor) -> list[Tensor]:
        """What `queries` are multiplied with: trusted items float (N, D), titles and clicks (N, R + 1)."""
        titles = self.titles.vectors.to(items.dtype)
        return [items * self.keep.unsqueeze(1), torch.cat([titles, self.popularity.unsqueeze(1)], 1)]

    def queries(self, fused: Tensor, intents: Tensor | None) -> list[Tensor]:
        """For items float (B, D), for titles and clicks (B, R + 1); arguments as for `rescore`."""
        prior = self.prior.expand(fused.shape[0], 1)
        return [fused, torch.cat([self._query(fused, intents), prior], 1)]

    def _query(self, fused: Tensor, intents: Tensor | None) -> Tensor:
        query: Tensor = self.to_text(fused)
        return query if intents is None else query + self._told(intents)

    def _told(self, intents: Tensor) -> Tensor:
        """What the intents (B, p, E), p <= P, ask of titles: (B, R), nothing where they are zero."""
        known = intents.abs().sum(2, keepdim=True) > 0
        told: Tensor = self.weights(self.whitening(intents) * known)
        learned: Tensor = self.dropout(told) @ self.metric
        return told + learned
