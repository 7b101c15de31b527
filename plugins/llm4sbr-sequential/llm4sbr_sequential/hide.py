"""HIDE: a hypergraph per session, its intents kept apart (Li, Gao, Luo, Jin & Li, SIGIR 2022).

Every embedding is cut into K parts, one per intent; p_k is the mean of all items' k-th parts. For each intent
there is a hypergraph of the session's distinct items, with three types of edges:

    window:  for w = 2 ... W, the items of any w clicks in a row
    item:    an item and all that were clicked right after it
    intent:  of m items, the floor(share m) + 1 whose k-th parts have the highest cosine with p_k

With x_v item v's k-th part, c the mean k-th part of the session's clicks, r(e) the type of edge e:

    u_e   = sum_{v in e} x_v
    g_e   = sum_{v in e} softmax_v(LeakyReLU(a_r(e) . (u_e * x_v))) x_v            items to edges
    x'_v  = sum_{e with v} softmax_e(LeakyReLU(b_r(e) . (g_e * (x_v + c)))) g_e    edges to items
    h_v,k = x'_v + x'_v * sigmoid(x'_v * p_k)

With more layers, x' is the sum of those of all layers. The parts are joined again to h_t, the state of the
item at click t. With s the mean, z the state of the last click and q_n a position counted from the end:

    d    = W_s [s; z],   n_t = tanh(W_1 [q_{T-t+1}; h_t])
    f_t  = w . sigmoid([W_2 n_t + b_2; W_3 d + b_3; W_4 (d * h_t) + b_4])
    long = sum_t f_t h_t,   score_j = scale long . e_j

Auxiliary loss: from the mean over the session's items of h_v,k, a linear classifier has to tell k.

Equations are those of the authors' released code (yf-li15/HIDE), with both of its types of edges and with
intents. Unlike there:

- An item counts once in an edge, whatever its number of clicks there; theirs adds the clicks up, and the sum
  becomes the number of another type of edge, or of none.
- The k-th hypergraph has the edge of its own intent; theirs also has those of the intents before it.
- Items equally near to p_k are in the edge or out of it together. Padding has no influence: theirs competes
  for places in the edge, and is part of the mean that is classified.
- K is 4 and not 5, since D must be a multiple of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llm4sbr.backbones.clicks import embed, last_click
from llm4sbr.backbones.graph import same_item
from llm4sbr.backbones.readout import masked_softmax, mean_click
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Encoded, Sessions
from llm4sbr_sequential.sessions import by_length, first_clicks, traced

__all__ = ["HIDE", "HypergraphAttention", "Readout", "shared_edges"]

SLOPE = 0.2
"""Negative slope of LeakyReLU, as in the released code."""
INCIDENCES = 2**24
"""Maximum number of elements of the largest tensor (B, K, E, T), 64 MB in float32."""
GROUPS = 4
"""Groups of similar length that a batch is divided into; it halves the time of a step or better."""


class HIDE(nn.Module):
    """HIDE: a hypergraph per session, its intents kept apart (Li et al., SIGIR 2022).

    Args:
        num_items: N.
        dim: D, a multiple of `intents`.
        intents: K.
        window: W, clicks of the longest window.
        share: share of a session's items that an intent's edge joins.
        layers: rounds from items to edges and back.
        scale: factor of the scores.
        weight: weight of the auxiliary loss.
        positions: number of position embeddings, counted from the end of a session.

    Raises:
        ConfigError: an option is out of range.
    """

    plugin_api = 1
    plain_readout = "long"
    lacks = {"sampled": "its intents are means of the whole item table"}
    means: Tensor | None

    tunes = {"intents": [1, 2, 4], "window": (2, 8), "share": (0.1, 0.9), "weight": (1e-5, 1e-2, "log")}

    def __init__(
        self,
        num_items: int,
        dim: int,
        *,
        intents: int = 4,
        window: int = 6,
        share: float = 0.4,
        layers: int = 1,
        scale: float = 10.0,
        weight: float = 1e-4,
        positions: int = 200,
    ) -> None:
        super().__init__()
        if intents < 1 or dim % intents:
            raise ConfigError(f"hide: intents = {intents}: expected a divisor of the dimension, {dim}")
        if window < 2 or layers < 1 or positions < 1:
            raise ConfigError(
                f"hide: window = {window}, layers = {layers}, positions = {positions}: expected at least 2, "
                "1 and 1"
            )
        if not 0 <= share <= 1 or scale <= 0:
            raise ConfigError(f"hide: share = {share}, scale = {scale}: expected 0 to 1, and more than 0")
        self.intents, self.window, self.share, self.scale = intents, window, share, scale
        self.weight = weight
        self.items = nn.Parameter(torch.empty(num_items, dim))
        self.attention = HypergraphAttention(dim // intents, intents=intents, layers=layers)
        self.classifier = nn.Linear(dim // intents, intents)
        self.readout = Readout(dim, positions=positions)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)
        self.register_buffer("means", None, persistent=False)  # p, in evaluation mode
        self.register_load_state_dict_post_hook(_means_again)  # type: ignore[no-untyped-call]

    def fit(self, sessions: Sessions) -> None:
        """Nothing to prepare: each session has its own hypergraph."""

    def train(self, mode: bool = True) -> HIDE:
        """Switch between training and evaluation mode; the latter computes the intents once."""
        super().train(mode)
        self.means = None if mode else self.items.detach().mean(0)
        return self

    def item_embeddings(self) -> Tensor:
        """What scores are computed with, float (N, D)."""
        return self.items

    def query(self, fused: Tensor) -> Tensor:
        """Session vectors float (B, D) times `scale`."""
        return self.scale * fused

    def forward(self, items: Tensor, mask: Tensor) -> Encoded:
        """Encode int64 (B, T) under bool (B, T)."""
        if traced():
            states = self._states(items, mask)
        else:
            states = by_length(self._states, items, mask, self._rows(*items.shape))
        loss = self._confusion(states, items, mask) if self.training else None
        last = last_click(states, mask)
        return Encoded(long=self.readout(states, last, mask), short=last, auxiliary=loss, states=states)

    def _rows(self, sessions: int, steps: int) -> int:
        """Sessions that are computed at once: a quarter, and fewer if they are long."""
        each = self.intents * (self.window * steps + 1) * steps
        return max(1, min(-(-sessions // GROUPS), INCIDENCES // each))

    def _states(self, items: Tensor, mask: Tensor) -> Tensor:
        """The states h of all clicks, float (B, T, D)."""
        means = self.items.mean(0) if self.means is None else self.means
        intents = means.view(self.intents, 1, -1)  # (K, 1, d)
        own = embed(items, self.items)
        context = self._parts(mean_click(own, mask).unsqueeze(1))  # (B, K, 1, d)
        same = same_item(items, mask)
        first = first_clicks(same)
        near = _nearest(self._parts(own), intents, first, self.share)
        states = self.attention(self._parts(own), context, shared_edges(same, mask, self.window), near, first)
        found: Tensor = states * (1 + torch.sigmoid(states * intents))
        return found.transpose(1, 2).flatten(2)

    def _parts(self, states: Tensor) -> Tensor:
        """(B, T, D) -> (B, K, T, d)."""
        return states.view(*states.shape[:2], self.intents, -1).transpose(1, 2)

    def _confusion(self, states: Tensor, items: Tensor, mask: Tensor) -> Tensor:
        """The auxiliary loss, a scalar."""
        first = first_clicks(same_item(items, mask))
        means = mean_click(states, first).view(len(items), self.intents, -1)
        found = self.classifier(means)  # (B, K, K)
        own = torch.arange(self.intents, device=items.device).expand(len(items), -1)
        return self.weight * functional.cross_entropy(found.flatten(0, 1), own.flatten())


def _means_again(model: HIDE, _: object) -> None:
    model.train(model.training)


def shared_edges(same: Tensor, mask: Tensor, window: int) -> Tensor:
    """Edges that do not depend on the intent: which items they hold, bool (B, W T, T).

    First T places for the windows of each size from 2 to W, by the window's first click, then T for the
    items' edges, by the item's first click. Places without a window or an item hold nothing.

    Args:
        same: bool (B, T, T), from `same_item`.
        mask: bool (B, T).
        window: W.
    """
    steps = same.shape[1]
    later = functional.pad(same, (0, 0, 0, window))
    real = functional.pad(mask, (0, window))
    found, inside = [], same
    for size in range(2, window + 1):
        inside = inside | later[:, size - 1 : size - 1 + steps]
        found.append(inside & real[:, size - 1 : size - 1 + steps].unsqueeze(2))
    numbers = same.to(torch.get_default_dtype())
    follows = numbers[:, :, :-1] @ numbers[:, 1:] > 0  # (B, T, T): the item of s comes right after that of t
    return torch.cat([*found, (same | follows) & first_clicks(same).unsqueeze(2)], 1)


def _nearest(parts: Tensor, intents: Tensor, first: Tensor, share: float) -> Tensor:
    """The items of each intent's edge, bool (B, K, T), for parts (B, K, T, d) and p (K, 1, d)."""
    one, other = functional.normalize(parts.detach(), dim=3), functional.normalize(intents.detach(), dim=2)
    near = (one * other).sum(3)
    nearer = (near.unsqueeze(2) > near.unsqueeze(3)) & first[:, None, None]  # (B, K, T, T)
    most = torch.floor(share * first.sum(1))[:, None, None]
    return nearer.sum(3) <= most


class HypergraphAttention(nn.Module):
    """Attention from items to edges and back, one hypergraph per session and intent.

    Args:
        size: d, entries of a part.
        intents: K.
        layers: number of rounds.
    """

    def __init__(self, size: int, *, intents: int, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.to_edges = nn.Parameter(torch.empty(intents, 3, size))  # a of window, item, intent
        self.to_items = nn.Parameter(torch.empty(intents, 3, size))  # b

    def forward(self, parts: Tensor, context: Tensor, shared: Tensor, near: Tensor, first: Tensor) -> Tensor:
        """Parts float (B, K, T, d) -> (B, K, T, d).

        Args:
            parts: x of every click.
            context: c, float (B, K, 1, d).
            shared: edges of all intents, bool (B, W T, T).
            near: the intents' edges, bool (B, K, T).
            first: bool (B, T), one click per item.
        """
        intents = parts.shape[1]
        shared = shared.unsqueeze(1).expand(-1, intents, -1, -1)
        clicks = torch.cat([shared, near.unsqueeze(2)], 2)  # (B, K, E, T)
        nodes = clicks & first[:, None, None]
        to_edges, to_items = (self._by_edge(a, clicks) for a in (self.to_edges, self.to_items))
        clicks = clicks.transpose(2, 3)
        total = torch.zeros_like(parts)
        for _ in range(self.layers):
            sums = nodes.to(parts.dtype) @ parts  # (B, K, E, d)
            logits = functional.leaky_relu((sums * to_edges) @ parts.transpose(2, 3), SLOPE)
            edges = masked_softmax(logits, nodes) @ parts
            logits = functional.leaky_relu((parts + context) @ (edges * to_items).transpose(2, 3), SLOPE)
            parts = masked_softmax(logits, clicks) @ edges
            total = total + parts
        return total

    def _by_edge(self, types: Tensor, clicks: Tensor) -> Tensor:
        """The vector of each edge's type, (K, E, d) from (K, 3, d)."""
        edges, steps = clicks.shape[2:]
        windows = types[:, :1].expand(-1, edges - steps - 1, -1)
        return torch.cat([windows, types[:, 1:2].expand(-1, steps, -1), types[:, 2:]], 1)


class Readout(nn.Module):
    """Soft attention by place, by the session's mean and last click, and by what they share with a click.

    Args:
        dim: D.
        positions: number of position embeddings; clicks further back share the last one.
    """

    def __init__(self, dim: int, *, positions: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(positions, dim))
        self.from_position = nn.Linear(dim, dim, bias=False)  # W_1, left part
        self.from_state = nn.Linear(dim, dim, bias=False)  # W_1, right part
        self.from_session = nn.Linear(2 * dim, dim, bias=False)  # W_s
        self.place = nn.Linear(dim, dim)  # W_2, b_2
        self.session = nn.Linear(dim, dim)  # W_3, b_3
        self.match = nn.Linear(dim, dim)  # W_4, b_4
        self.attention = nn.Linear(3 * dim, 1, bias=False)  # w

    def forward(self, states: Tensor, last: Tensor, mask: Tensor) -> Tensor:
        """States (B, T, D), those of the last clicks (B, D), mask bool (B, T) -> (B, D)."""
        steps = torch.arange(states.shape[1], device=states.device)
        back = (mask.sum(1, keepdim=True) - 1 - steps).clamp(min=0, max=len(self.positions) - 1)
        places = functional.embedding(back, self.from_position(self.positions))  # (B, T, D)
        placed = torch.tanh(places + self.from_state(states))
        session = self.from_session(torch.cat([mean_click(states, mask), last], 1)).unsqueeze(1)
        by_place, by_session, by_match = self.attention.weight[0].chunk(3)
        weights = (
            torch.sigmoid(self.place(placed)) @ by_place
            + torch.sigmoid(self.session(session)) @ by_session
            + torch.sigmoid(self.match(session * states)) @ by_match
        )  # (B, T)
        return ((weights * mask).unsqueeze(2) * states).sum(1)
