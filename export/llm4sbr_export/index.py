"""The precision `index`: the graph ends with the session's query, and an index finds candidates for it.

How many lists of the index are read is the smallest number, in steps of a quarter, that reaches the recall
asked for on training sessions; the export is then verified on test sessions like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm4sbr.errors import ExportError
from llm4sbr.fusion.item_item import ItemItemScores
from llm4sbr.serving.artefact import open_session
from llm4sbr.serving.search import Added, Search, faiss

if TYPE_CHECKING:
    from llm4sbr.exporting import ExportSpec
    from llm4sbr.fusion.model import LLM4SBR
    from llm4sbr_export.graph import Graph

CANDIDATES = 100
"""Candidates, besides as many as a session may exclude; at least four times K."""

LISTS = 4
"""Lists per square root of the number of items."""

PER_LIST = 64
"""Items per list at least, and rows per list that the lists are learned from."""

SHARE = 4
"""At most one in so many lists is read: beyond that the exact 8-bit pass is as fast."""

MARGIN = 0.5
"""Share of what may be missed that is kept for test sessions."""

MEASURED = 256
"""Training sessions that the recall is measured on to choose the number of lists."""


class QueryGraph(nn.Module):
    """The graph up to the query of a session.

    Args:
        graph: of the whole model.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.whole = graph  # `graph` is an attribute of what tracing makes
        self.outputs = ("query", "intents") if graph.with_intents else ("query",)

    def forward(self, items: Tensor, mask: Tensor, intents: Tensor | None = None) -> tuple[Tensor, ...]:
        """Queries float (B, Q), and predicted intents float (B, P, E); arguments as for `Graph`."""
        predict = self.whole.intent_mode == "predictor"
        output = self.whole.model.represent(torch.where(mask, items, 0), mask, intents, predict=predict)
        queries = self.whole.queries(output)
        if self.whole.model.counted is not None:
            queries = [*queries, torch.ones_like(queries[0][:, :1])]
        query = torch.cat(queries, 1) if len(queries) > 1 else queries[0]
        return (query, cast(Tensor, output.intents)) if self.whole.with_intents else (query,)

    def example(self) -> dict[str, Tensor]:
        """Example inputs for tracing."""
        return {name: value for name, value in self.whole.example().items() if name != "exclude_seen"}


@torch.no_grad()
def rows_of(graph: Graph) -> Tensor:
    """The exact rows whose products with a query are the scores, float (N, Q), but for what is added."""
    tables = [table.detach() for table in cast(Any, graph.exact).tables]
    counted = graph.model.counted
    if counted is not None:
        tables = [*tables, (counted.prior * counted.popularity).unsqueeze(1)]
    return torch.cat(tables, 1)


@torch.no_grad()
def added_of(model: LLM4SBR) -> list[Added]:
    """The item-item tables whose scores are added."""
    found = []
    if isinstance(model.item_item, ItemItemScores):
        own = model.item_item
        numbers = (own.log_weight.exp().item(), own.log_small.exp().item())
        found.append(Added(own.items.numpy(), own.weights.numpy(), own.log_ages.exp().numpy(), *numbers))
    for table in model.counted.by_name.values() if model.counted is not None else ():
        numbers = (table.weight.item(), table.small.item())
        found.append(Added(table.items.numpy(), table.weights.numpy(), table.fading().numpy(), *numbers))
    return found


@torch.no_grad()
def own_of(model: LLM4SBR) -> tuple[float, float] | None:
    """What is added to the score of a session's last item, and of its others; None if nothing is."""
    counted = None if model.counted is None else model.counted.own
    if model.repeats is None and counted is None:
        return None
    fuser = 0.0 if model.repeats is None else model.repeats.item()
    last, others = (0.0, 0.0) if counted is None else counted.tolist()
    return fuser + last, fuser + others


def built(rows: NDArray[np.float32]) -> Any:
    """An index over rows float32 (N, Q): inverted lists of 8-bit rows, by inner product."""
    library = faiss()
    lists = max(1, min(round(LISTS * sqrt(len(rows))), len(rows) // PER_LIST))
    index = library.index_factory(rows.shape[1], f"IVF{lists},SQ8", library.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = PER_LIST
    index.train(rows[:: max(1, len(rows) // (PER_LIST * lists))])
    index.add(rows)
    return index


def write_index(graph: Graph, path: Path, example: Mapping[str, Tensor], spec: ExportSpec) -> None:
    """Write the index of a graph whose `QueryGraph` is at `path`, beside it.

    Raises:
        ExportError: the recall is not reached.
        ModelUnavailableError: faiss is not installed.
    """
    from llm4sbr.serving.search import INDEX

    rows = rows_of(graph).numpy()
    count = max(CANDIDATES, 4 * spec.k) + spec.max_length
    search = Search(built(rows), rows, added_of(graph.model), own=own_of(graph.model), count=count)
    session = open_session(path, provider="cpu")
    inputs = {name: value[:MEASURED] for name, value in example.items() if name != "exclude_seen"}
    queries = session.run(["query"], {name: value.numpy() for name, value in inputs.items()})[0]
    best = _best(graph, inputs, spec.k)
    _choose(search, queries, inputs, best, spec)
    search.write(path.with_name(INDEX), spec.about)


def _choose(
    search: Search, queries: NDArray[np.float32], inputs: Mapping[str, Tensor], best: Tensor, spec: ExportSpec
) -> None:
    """Set how many lists of the index are read."""
    aim = spec.recall + MARGIN * (1 - spec.recall)
    items, mask = inputs["items"].numpy(), inputs["mask"].numpy()
    exclude = np.ones((len(items), 1), np.bool_)
    lists, probes, recall = search.index.nlist, 1, 0.0
    while True:
        search.index.nprobe = probes
        ids, values = search.top(queries, items, mask, exclude, spec.k)
        least = best[:, -1:].numpy()
        good = (values >= least - 1e-4 * np.abs(least).clip(1)) & (ids > 0)
        recall = float(good.sum() / best.isfinite().sum())
        if recall >= aim:
            return
        if probes >= max(lists // SHARE, 1):
            break
        probes = min(probes + max(probes // 4, 1), max(lists // SHARE, 1))
    raise ExportError(
        f"the index finds {recall:.4f} of the {spec.k} best items with {probes} of {lists} lists read, "
        f"{aim:.4f} is needed for a recall of {spec.recall}; ask for less, --recall, or export int8"
    )


@torch.no_grad()
def _best(graph: Graph, inputs: Mapping[str, Tensor], k: int) -> Tensor:
    """The K best scores of the model itself, float (B, K), a few sessions at a time.

    A session's own items, which an index finds most easily, are left out.
    """
    predict = graph.intent_mode == "predictor"
    found = []
    for row in range(0, len(inputs["items"]), 4):
        part = {name: value[row : row + 4] for name, value in inputs.items()}
        scores = graph.model(part["items"], part["mask"], part.get("intents"), predict=predict)
        own = torch.where(part["mask"], part["items"], part["items"][:, :1]) - 1
        found.append(scores.scatter(1, own, -torch.inf).topk(k).values)
    return torch.cat(found)
