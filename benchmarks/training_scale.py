"""Measures how training grows with the catalogue: the full loss and that over sampled items, side by side.

Sessions are made up: 6 clicks and a target, drawn independently, item number r with a probability that falls
as r^-0.8. What is timed is `train_model` on SR-GNN without intents. Each contestant has a process of its own,
which also tells its peak memory: of a whole training of one epoch, its checkpoint included. They take turns,
round by round; the first round is not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import circumstances
from processes import Child, answer_for
from training_clock import Throughput

from llm4sbr.config import TrainConfig
from llm4sbr.data.batches import sample_keys
from llm4sbr.fusion.model import Recipe
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.training.material import Material
from llm4sbr.training.trainer import train_model

CLICKS = 6
FALL = 0.8
LOSSES = ("full", "popularity")
MOST = 3_000_000
"""Items times batches of the full loss in a round: a million items get three batches."""


def sessions(items: int, count: int, seed: int) -> Sessions:
    """Sessions of `CLICKS` clicks and a target on a catalogue of `items`."""
    random = torch.Generator().manual_seed(seed)
    below = torch.arange(1, items + 1, dtype=torch.float64).pow_(-FALL).cumsum(0)
    drawn = torch.rand(count * (CLICKS + 1), dtype=torch.float64, generator=random) * below[-1]
    ranks = torch.searchsorted(below, drawn).clamp(max=items - 1)
    named = torch.randperm(items, generator=random) + 1
    return Sessions(named[ranks], torch.arange(count + 1) * (CLICKS + 1))


def trained(items: int, loss: str, batches: int, seed: int, **changes: Any) -> dict[str, float]:
    """Samples/s and memory of a training of so many batches, with other settings of `train`."""
    config = TrainConfig(**({"epochs": 1, "device": "cpu", "loss": loss} | changes))
    made = sessions(items, batches * config.batch_size, seed)
    start, end = made.offsets[:-1], made.offsets[1:] - 1
    samples = Samples(start, end, sample_keys(made, start, end))
    nothing = Samples(*(torch.zeros(0, dtype=torch.int64),) * 3)
    material, clock = Material(made, made, samples, nothing, "none", "made up"), Throughput()
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(items, config.dim, "sr-gnn")
        train_model(Path(folder), recipe, material, config, seed=seed, report=clock, facts=None)
    return clock.found()


def results(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """All measurements, for the JSON file."""
    loads, rows = [os.getloadavg()[0]], []
    for items in options.items:
        tasks = [{"items": items, "loss": loss, "seed": options.seed} for loss in LOSSES]
        with Child(__file__, tasks[0], threads=1) as full, Child(__file__, tasks[1], threads=1) as sampled:
            found: list[list[dict[str, Any]]] = [[], []]
            for number in range(options.rounds + 1):
                say(f"{items:,} items, round {number} of {options.rounds}")
                for one, child in enumerate((full, sampled)):
                    most = MOST // items if one == 0 else options.batches
                    found[one].append(child.ask(batches=1 + max(3, min(options.batches, most))))
        for loss, rounds in zip(LOSSES, found, strict=True):
            memory = rounds[0]["resident"]  # in a fresh process
            rates = [{clock: one[clock] for clock in ("wall", "cpu")} for one in rounds[1:]]
            rows.append({"items": items, "loss": loss, "rounds": rates, "resident": memory})
        loads.append(os.getloadavg()[0])
    command = f"python benchmarks/training.py --items {','.join(map(str, options.items))}"
    return {
        "command": f"{command} --batches {options.batches} --rounds {options.rounds}",
        **circumstances(["torch", "llm4sbr"]),
        "loads": loads,
        "negatives": TrainConfig().negatives,
        "rows": rows,
    }


if __name__ == "__main__":
    import json

    task = json.loads(sys.argv[2])
    torch.set_num_threads(1)
    answer_for({}, lambda batches: trained(task["items"], task["loss"], batches, task["seed"]))
