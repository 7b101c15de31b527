"""A session's own items: how often they are clicked again, and how to exclude them from recommendations.

In some data, such as film ratings, an item is never clicked twice in a session, and recommending one of the
session's own items is pointless. In other data users often return to items.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llm4sbr.protocols import Samples, Sessions

RARE = 0.01
"""`data.repeats = "auto"` excludes own items if the share of targets that repeat an item is below this."""


def repeat_share(sessions: Sessions, samples: Samples) -> float:
    """Share of the samples whose target is among the items of their prefix; 0 without samples."""
    if not len(samples.end):
        return 0.0
    items, offsets = sessions.items.numpy(), sessions.offsets.numpy()
    session = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((items, session))  # stable: clicks on one item of a session stay in their order
    same = (items[order][1:] == items[order][:-1]) & (session[order][1:] == session[order][:-1])
    before = np.full(len(items), -1)
    before[order[1:][same]] = order[:-1][same]
    return float((before[samples.end.numpy()] >= samples.start.numpy()).mean())


def own_columns(items: Tensor, mask: Tensor) -> Tensor:
    """The columns of the sessions' own items in scores (B, N), int64 (B, T); at padding the first item's."""
    return torch.where(mask, items, items[:, :1]) - 1


def without_own(scores: Tensor, items: Tensor, mask: Tensor, *, but: Tensor | None = None) -> Tensor:
    """Set the scores of the sessions' own items to minus infinity; returns new scores.

    Args:
        scores: float (B, N).
        items: int64 (B, T), right-padded with 0.
        mask: bool (B, T), true at clicks.
        but: int64 (B,), one item per session that keeps its score even if it is the session's own.
    """
    left_out = torch.zeros_like(scores).scatter_(1, own_columns(items, mask), -torch.inf)
    if but is not None:
        left_out.scatter_(1, but.unsqueeze(1) - 1, 0.0)
    return scores + left_out
