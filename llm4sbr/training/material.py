"""The data that one model is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from llm4sbr.evaluation.ranking import SampleIntents
from llm4sbr.fusion.item_item import CrossFit, ItemItem
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.training.warm import WarmStart


class Material(NamedTuple):
    """The data that one model is trained on."""

    sessions: Sessions
    """The sessions that all samples refer to."""
    fit: Sessions
    """The training sessions, for the backbone's `fit`."""
    train: Samples
    select: Samples
    """Samples on which the best epoch is chosen; if there are none, the last epoch is used."""
    selected_on: str
    """`valid`, `test` (only under the paper's protocol) or `none`."""
    catalogue: str
    """Hash of the catalogue."""
    train_intents: SampleIntents | None = None
    select_intents: SampleIntents | None = None
    repeats: bool = True
    """Whether a list may contain the session's own items."""
    titles: Tensor | None = None
    """float32 (N, E), the catalogue's text vectors, for a fuser that needs them."""
    start: Tensor | None = None  # float32 (N, E), the text vectors that item embeddings start as
    item_item: CrossFit | None = None
    """For a model with an item-item part."""
    tables: Mapping[str, ItemItem] = {}
    """What is added to the scores of the trained model, with weights fitted to `select`."""
    warm: WarmStart | None = None
    """What the model starts from, if that is an older one."""
    rates: tuple[float, ...] = ()
    """The learning rate of each epoch, where it is known from an earlier training."""
