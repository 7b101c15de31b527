"""The session graph as a sparse matrix between nodes is the dense one between clicks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.backbones.graph import session_graph
from llm4sbr.fast.nodes import ROWS, session_nodes
from llm4sbr.testing.backbones import pad

batches = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=12), min_size=1, max_size=5)


def dense(bags, columns):
    return bags.times(torch.eye(columns, dtype=torch.float32))


@settings(max_examples=100, deadline=None)
@given(batches)
def test_averages_are_those_of_the_dense_graph(batch):
    items, mask = pad(batch)
    nodes, graph = session_nodes(items, mask), session_graph(items, mask)
    vectors = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    table = vectors[nodes.distinct]
    links = nodes.links(nodes.item, len(table))
    nothing = torch.zeros_like(table)
    clicks = vectors[items]  # the vector of each click's item
    for place, expected in enumerate((graph.incoming @ clicks, graph.outgoing @ clicks, clicks)):
        mapped = torch.stack([table if part == place else nothing for part in range(3)], 1).flatten(0, 1)
        found = links.there.times(mapped).view(2, -1, 4).sum(0)  # neighbours' average, or the own vector
        torch.testing.assert_close(found[nodes.clicks][mask], expected[mask], rtol=0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(batches)
def test_nodes_are_each_sessions_distinct_items(batch):
    items, mask = pad(batch)
    nodes = session_nodes(items, mask)
    assert len(nodes.item) % ROWS == len(nodes.distinct) % ROWS == 0
    clicked = nodes.clicked > 0
    found = [(int(s), int(nodes.distinct[i])) for s, i in zip(nodes.session, nodes.item, strict=True)]
    real = [pair for pair, own in zip(found, clicked.tolist(), strict=True) if own]
    assert real == [(row, item) for row, session in enumerate(batch) for item in sorted(set(session))]
    counts = [session.count(item) for session in batch for item in sorted(set(session))]
    assert nodes.clicked[clicked].tolist() == counts
    assert nodes.distinct[nodes.item[nodes.last]].tolist() == [session[-1] for session in batch]


@settings(max_examples=50, deadline=None)
@given(batches)
def test_back_is_there_transposed(batch):
    nodes = session_nodes(*pad(batch))
    size, count = len(nodes.distinct), len(nodes.item)
    links = nodes.links(nodes.item, size)
    torch.testing.assert_close(dense(links.there, 3 * size).T, dense(links.back, 2 * count))
    owners = torch.nn.functional.one_hot(nodes.item, size).T.float()
    torch.testing.assert_close(dense(links.owned, count), owners)
