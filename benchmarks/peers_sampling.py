"""Compares training with GRU4Rec's own way: sessions in parallel, and items that a batch shares.

    python benchmarks/peers_sampling.py RUN --json benchmarks/results/gru4rec-sampling.json

RUN must be prepared and localized. The official code needs Theano or a GPU, so its way is written here from
the papers (Hidasi et al., ICLR 2016; Hidasi & Karatzoglou, CIKM 2018): B sessions advance together, one click
and one step of the GRU each, without gradients through earlier steps; a session that ends makes room for the
next. Every state is a prediction, scored against the batch's targets and items drawn by clicks^0.5 before;
softmax cross entropy; one table for input and output, of which Adagrad touches the rows that occur. A
prediction there is a sample here, for which our backbone `gru4rec` reads its whole prefix. Both alternate in
one process with one thread; the ratio is the median of the rounds' ratios of CPU time. It says how fast
training is, not how good.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from machine import circumstances, keep
from torch import Tensor, nn
from torch.nn import functional
from training import Bench
from training_clock import Throughput

from llm4sbr.config import TrainConfig
from llm4sbr.protocols import Sessions
from llm4sbr.system import memory

DRAWN, STORE = 2048, 1000
"""Items drawn per step, and the steps that they are drawn for in advance."""
POWER = 0.5


class GRU4Rec(nn.Module):
    """A GRU whose input and output are one table.

    Args:
        num_items: N.
        dim: D.
    """

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, dim, sparse=True)
        self.bias = nn.Embedding(num_items + 1, 1, sparse=True)
        self.cell = nn.GRUCell(dim, dim)

    def forward(self, clicks: Tensor, state: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
        """Scores float (B, C) of items int64 (C,), and states (B, D), after clicks int64 (B,)."""
        state = self.cell(self.items(clicks), state)
        return state @ self.items(scored).T + self.bias(scored).T, state


def parallel(sessions: Sessions, chosen: list[int], size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Clicks int64 (B,), targets (B,) and where a session begins, bool (B,), while B sessions are left."""
    bounds = [(int(sessions.offsets[one]), int(sessions.offsets[one + 1])) for one in chosen]
    waiting = iter([(start, end) for start, end in bounds if end - start > 1])
    rows = [next(waiting) for _ in range(size)]
    at, last = (torch.tensor(part) for part in zip(*rows, strict=True))
    begins = torch.ones(size, dtype=torch.bool)
    while True:
        yield sessions.items[at], sessions.items[at + 1], begins
        at += 1
        begins = at + 1 >= last
        for row in begins.nonzero().flatten().tolist():
            following = next(waiting, None)
            if following is None:
                return
            at[row], last[row] = following


def way_of_gru4rec(bench: Bench, batches: int) -> dict[str, float]:
    """Train some batches from fresh weights."""
    config, prepared, clock = TrainConfig(), bench.prepared, Throughput()
    torch.manual_seed(bench.seed)
    model = GRU4Rec(prepared.catalogue.size, config.dim)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    order = torch.randperm(len(prepared.train.offsets) - 1).tolist()
    clicks = prepared.train.items.bincount(minlength=prepared.catalogue.size + 1)[1:].double()
    drawn = (clicks**POWER).multinomial(DRAWN * min(STORE, batches), replacement=True).view(-1, DRAWN) + 1
    state = torch.zeros(config.batch_size, config.dim)
    steps = zip(range(batches), parallel(prepared.train, order, config.batch_size), strict=False)
    for number, (items, targets, begins) in steps:
        scored = torch.cat([targets, drawn[number % len(drawn)]])
        scores, state = model(items, state.detach() * ~begins.unsqueeze(1), scored)
        loss = functional.cross_entropy(scores, torch.arange(len(targets)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clock(len(targets), "")
    return clock.found()


def main() -> None:
    """Measure, write the JSON, print the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run directory that is prepared and localized")
    parser.add_argument("--batches", type=int, default=20, help="per round and contestant")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    memory.reuse_freed()
    bench = Bench.open(options.run, options.seed)
    rounds: list[dict[str, float]] = []
    for number in range(options.rounds + 1):  # the first is not counted
        peer = way_of_gru4rec(bench, options.batches + 1)["cpu"]
        told = {
            kind: bench.measure("gru4rec", kind, options.batches + 1)["cpu"] for kind in ("plain", "intents")
        }
        if number:
            rounds.append({"peer": peer} | told)
        print(f"round {number}: {rounds[-1:]}", file=sys.stderr, flush=True)
    rates = {name: median(one[name] for one in rounds) for name in ("peer", "plain", "intents")}
    times = {name: median(one[name] / one["peer"] for one in rounds) for name in ("plain", "intents")}
    about: dict[str, Any] = circumstances(("torch", "llm4sbr")) | {"catalogue": bench.prepared.catalogue.size}
    found = about | {"batches": options.batches, "rounds": rounds, "rates": rates, "times": times}
    keep(options.json, found)
    print(f"GRU4Rec's way: {rates['peer']:,.0f} samples/s")
    for kind, factor in times.items():
        print(f"gru4rec, {kind}: {rates[kind]:,.0f} samples/s, {factor:.2f} times")


if __name__ == "__main__":
    main()
