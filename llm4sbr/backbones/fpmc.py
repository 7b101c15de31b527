"""FPMC: factorised Markov chains (Rendle, Freudenthaler & Schmidt-Thieme, WWW 2010).

The paper scores item i for user u after basket B as

    <V_u, V_i> + 1 / |B| sum over l in B of <V_i^next, V_l^previous>

Sessions are anonymous, so there is no user factor, and a basket is one click. What remains is the transition
from the last item to the next one, <V_i^next, V_last^previous>, with one embedding table per side.

Deviations:

- Only the last click is used. In a fused model the intents may still carry information about earlier ones.
- Trained by the softmax cross entropy over the whole catalogue, like every backbone here, instead of by pairs
  with sampled items (S-BPR).
"""

from __future__ import annotations

from torch import Tensor, nn

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.protocols import Encoded, Sessions


class FPMC(nn.Module):
    """Session encoder that sees the last item only.

    Args:
        num_items: N.
        dim: D.
    """

    plain_readout = "long"

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.items = item_table(num_items, dim)  # V^next
        self.previous = item_table(num_items, dim)

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long and short are the last item's V^previous."""
        last = last_click(items.unsqueeze(2), mask)  # (B, 1)
        state = embed(last, self.previous).squeeze(1)
        return Encoded(long=state, short=state)
