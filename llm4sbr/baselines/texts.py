"""Rows that only text can fill, without any training: what an encoder, or an LLM's answers, say alone.

- `LLMSeqSim` (Harte et al. 2023): a session is the mean of its items' title vectors, and the items nearest to
  it are recommended. No LLM is asked.
- `LLMInfer`: the items that the LLM's answers were tied to, and behind them what is most like the answers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llm4sbr.protocols import Localization, Sessions


class LLMSeqSim:
    """Ranks items by the cosine of their title vectors t_j with the session's, mean over clicks of t_i.

    Title vectors are scaled to length 1 first. The paper's best way to combine a session's items differs by
    data set; the mean is its first.

    Args:
        num_items: N.
    """

    needs_text = True

    def __init__(self, num_items: int) -> None:
        self.titles = torch.zeros(num_items, 0)

    def fit(self, sessions: Sessions) -> None:
        """Nothing is learned from sessions."""

    def fit_text(self, titles: Tensor) -> None:
        """Take over the items' text vectors, float32 (N, E)."""
        self.titles = normalize(titles.float(), dim=1)

    def score(self, items: Tensor, mask: Tensor) -> Tensor:
        """float32 (B, N) for int64 (B, T) under bool (B, T)."""
        clicks = self.titles[(items - 1).clamp(min=0)] * mask.unsqueeze(2)  # (B, T, E)
        return normalize(clicks.sum(1), dim=1) @ self.titles.T


class LLMInfer:
    """Ranks items by what the LLM's answers say of them.

        score_j = sum over perspectives p of w_pj + cos(i_p, t_j)

    w_pj is the weight of item j among those that answer p was tied to, 0 if it is none of them, and i_p the
    intent. A session without an answer scores all items 0.

    Args:
        num_items: N.
    """

    needs_text = True
    needs_answers = True

    def __init__(self, num_items: int) -> None:
        self.titles = torch.zeros(num_items, 0)

    def fit(self, sessions: Sessions) -> None:
        """Nothing is learned from sessions."""

    def fit_text(self, titles: Tensor) -> None:
        """Take over the items' text vectors, float32 (N, E)."""
        self.titles = normalize(titles.float(), dim=1)

    def score(self, items: Tensor, mask: Tensor, answers: Localization | None = None) -> Tensor:
        """float32 (B, N) for int64 (B, T) under bool (B, T), and the sessions' answers, (B, P, ...) each."""
        if answers is None:
            return torch.zeros(len(items), len(self.titles))
        scores = normalize(answers.embeddings.float(), dim=2).sum(1) @ self.titles.T
        padded = torch.cat([scores.new_zeros(len(scores), 1), scores], 1)  # column 0: no item
        tied = padded.scatter_add(1, answers.items.flatten(1), answers.weights.float().flatten(1))
        return tied[:, 1:]
