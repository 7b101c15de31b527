"""Turns all sessions of a run into training data, for a model that is served and not evaluated."""

from __future__ import annotations

import numpy as np
import torch

from llm4sbr.data.batches import sample_keys
from llm4sbr.data.prepared import Prepared
from llm4sbr.data.splits import expand
from llm4sbr.protocols import Samples


def whole(prepared: Prepared) -> Prepared:
    """The same data with all sessions in the training part, and empty validation and test parts.

    Prefixes are made by the rule that was used for the training samples.
    """
    sessions, rules = prepared.sessions, prepared.stats.get("rules", {})
    start, end = expand(sessions.offsets.numpy(), rules.get("train_prefixes", "all"))
    first = torch.from_numpy(np.maximum(start, end - rules.get("max_length", len(sessions.items))))
    last = torch.from_numpy(end)
    train = Samples(first, last, sample_keys(sessions, first, last))
    nothing = Samples(*(field[:0] for field in train))
    return prepared._replace(train=sessions, samples={"train": train, "valid": nothing, "test": nothing})
