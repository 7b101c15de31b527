"""A session's own items: how often the next item is one of them, and lists without them.

In some data (ratings of films) an item of the session is never clicked again, so that each one in a list is a
wasted place. In other data users often return to items.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llm4sbr.protocols import Samples, Sessions

RARE = 0.01
"""Below this share of targets that repeat an item of their session, `auto` leaves own items out of lists."""


def repeat_share(sessions: Sessions, samples: Samples) -> float:
    """Share of the samples whose target is among the items of their prefix; 0 where there are none."""
    if not len(samples.end):
        return 0.0
    items, offsets = sessions.items.numpy(), sessions.offsets.numpy()
    session = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((items, session))  # stable: clicks on one item of a session are in their own order
    same = (items[order][1:] == items[order][:-1]) & (session[order][1:] == session[order][:-1])
    before = np.full(len(items), -1)
    before[order[1:][same]] = order[:-1][same]
    return float((before[samples.end.numpy()] >= samples.start.numpy()).mean())


def own_columns(items: Tensor, mask: Tensor) -> Tensor:
    """Columns of scores (B, N) of the sessions' own items, int64 (B, T); padding repeats the first click."""
    return torch.where(mask, items, items[:, :1]) - 1


def without_own(scores: Tensor, items: Tensor, mask: Tensor, *, but: Tensor | None = None) -> Tensor:
    """Scores of which the sessions' own items have minus infinity.

    Args:
        scores: float (B, N).
        items: int64 (B, T), right-padded with 0.
        mask: bool (B, T).
        but: int64 (B,), an item per session that keeps its score whatever it is.
    """
    left_out = torch.zeros_like(scores).scatter_(1, own_columns(items, mask), -torch.inf)
    if but is not None:
        left_out.scatter_(1, but.unsqueeze(1) - 1, 0.0)
    return scores + left_out
