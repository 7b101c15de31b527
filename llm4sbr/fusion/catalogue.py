"""Fusers by which text reaches the catalogue: an intent speaks for items directly, not only as a gate.

With `gated` a shuffled intent serves nearly as well as the right one: a gate is one number per session and
perspective, and items are known by their ids alone, so that an item new in training cannot be found. Here
every item j also has its title's vector t_j, a constant out of stage `localize`, and the scores become

    score_j = backbone's score of the fused vector v + t_j . (text query of v and the intents)

The query's inner products are one matrix product, (B, E) with (E, N), beside the backbone's own score, which
is not replaced: any backbone works, those with a score of their own too. That product is the cost in time,
E / D times the backbone's plain scoring. In memory and on disk the titles cost 2 N E bytes per model (9 MB
for 12,101 items of 384 numbers in float16); they are saved with it, so that a model scores without its run.
`whitened` keeps R = 128 numbers of each title, and costs that much less.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.fusion.fusers import Gated

FIRST_WEIGHT = 4.0
"""Weight of an intent's cosines to begin with. They differ by a few tenths, logits by a few units."""

HASTE = 10.0
"""The logarithm of such a weight learns so much faster than other parameters: intents that say nothing are to
be silenced within an epoch or two."""

REPEATS_HASTE = 50.0
"""The same for what is added to a session's own items."""

FLATTEST = 1e-2
"""Directions in which titles vary less than this share of the most are not stretched further: it is noise."""


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
        first: what they begin with.
    """

    def __init__(self, perspectives: int, *, first: float = FIRST_WEIGHT) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((perspectives,), first).log() / HASTE)

    def forward(self, intents: Tensor) -> Tensor:
        """The weighted sum of float (B, p, E), p <= P, over perspectives: float (B, E)."""
        weights = (self.log[: intents.shape[1]] * HASTE).exp().unsqueeze(1)
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

    def fit(self, titles: Tensor, clicks: Tensor) -> None:
        """Take over the catalogue's text vectors, float (N, E); how often items were clicked is not asked."""
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
        added: Tensor = scores + self.titles(self.queries(fused, intents)[1])
        return added

    def factors(self, items: Tensor) -> list[Tensor]:
        """What `queries` are multiplied with: items float (N, D), titles (N, E)."""
        return [items, self.titles.vectors.to(items.dtype)]

    def queries(self, fused: Tensor, intents: Tensor | None) -> list[Tensor]:
        """For items float (B, D), for titles (B, E); arguments as for `rescore`."""
        query: Tensor = self.to_text(fused)
        return [fused, query if intents is None else query + self.weights(intents)]


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
        self.titles = Titles(num_items, rank)
        self.weights = Weights(perspectives, first=2 * FIRST_WEIGHT)
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
