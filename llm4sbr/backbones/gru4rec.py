"""GRU4Rec: a gated recurrent unit over the clicks (Hidasi, Karatzoglou, Baltrunas & Tikk, ICLR 2016).

With x_t the embedding of click t and h_0 = 0, section 3 of the paper:

    z_t = sigmoid(W_z x_t + U_z h_{t-1})        update gate
    r_t = sigmoid(W_r x_t + U_r h_{t-1})        reset gate
    c_t = tanh(W x_t + U (r_t * h_{t-1}))       candidate
    h_t = (1 - z_t) * h_{t-1} + z_t * c_t
    score of item j = h_T . e_j

Deviations from the paper and the authors' released code:

- Trained by the softmax cross entropy over the whole catalogue on padded batches of prefixes, like every
  backbone here, instead of session-parallel batches that carry the state over and losses on sampled items.
- Input and output share one item embedding table (the released code's `constrained_embedding`), and there is
  no bias per item, so that a score is a dot product.
- One layer, which the paper found best, and PyTorch's variant of the unit (see `recurrent`).
"""

from __future__ import annotations

from torch import Tensor, nn

from llm4sbr.backbones.clicks import embed, item_table, last_click
from llm4sbr.backbones.recurrent import GRU
from llm4sbr.protocols import Encoded, Sessions


class GRU4Rec(nn.Module):
    """Session encoder: the recurrent state at the last click.

    Args:
        num_items: N.
        dim: D, of items and state.
        embedding_dropout: dropout rate of the click embeddings.
        state_dropout: dropout rate of the last state.
    """

    plain_readout = "long"

    tunes = {"embedding_dropout": (0.0, 0.8), "state_dropout": (0.0, 0.8)}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        embedding_dropout: float = 0.0,
        state_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.items = item_table(num_items, dim)
        self.gru = GRU(dim)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.state_dropout = nn.Dropout(state_dropout)

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare."""

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T): long is h_T, short the last click's embedding."""
        clicks = embed(items, self.items)  # (B, T, D)
        states = self.gru(self.embedding_dropout(clicks))  # (B, T, D)
        long = self.state_dropout(last_click(states, mask))
        return Encoded(long=long, short=last_click(clicks, mask))
