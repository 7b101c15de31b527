"""The gain from intents, by fuser: python benchmarks/intents.py RUN --fuser gated --fuser whitened.

RUN must be prepared and localized, with the control `shuffled`. For every fuser the stages `train` and
`evaluate` run as in `llm4sbr run`, in separate folders. The plain backbone is trained once; it has its own
settings (`--plain`), so that it can be tuned separately. An interrupted measurement can be resumed. The JSON
file is written after every seed, and says so if there are fewer seeds than requested.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from intents_tables import table
from torch import Tensor

from llm4sbr import registry, store
from llm4sbr.config import Config, Settings, build, merge, parse_set, read_toml
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.evaluation import metrics
from llm4sbr.evaluation.breakdown import breakdown, numbers_of
from llm4sbr.progress import Progress
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.train import train, variants

K = 20
RARE = 5
"""A target with at most this many clicks in training is rare."""
TOLERANCE = 0.02
"""A relative loss above this in a group of test samples counts as worse."""


class Contender(NamedTuple):
    """Models trained with the same settings."""

    name: str
    """`plain`, or the fuser."""
    settings: Settings
    run: Path
    work: Path

    def config(self, seed: int) -> Config:
        """The configuration for one seed: one model after the other, no baselines."""
        fixed: Settings = {"seed": seed, "seeds": 1, "workers": 1, "baselines": []}
        if self.name == "plain":
            fixed |= {"neighbours": 0, "counted": []}  # the backbone alone, one row
        return build(merge(self.settings, {"train": fixed}))

    def ranks(self, seed: int) -> dict[str, Tensor]:
        """Variant -> ranks int64 (M,); trains and evaluates first if that was not done before."""
        safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in self.name)
        folder, config = self.work / f"{safe}-{seed}", self.config(seed)
        for stage in ("prepare",) if self.name == "plain" else ("prepare", "localize"):
            if not (folder / stage).exists():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / stage).symlink_to((self.run / stage).resolve())
        found, wanted = read_ranks(folder), variants(folder, config)
        if not set(wanted) <= found.keys():
            for stage, work in (("train", train), ("evaluate", evaluate)):
                (folder / stage).mkdir(exist_ok=True)
                work(folder, folder / stage, config, Progress(quiet=True))
            found = read_ranks(folder)
        return {variant: found[variant] for variant in wanted}


def read_ranks(folder: Path) -> dict[str, Tensor]:
    """Variant -> ranks int64 (M,); empty before the first evaluation."""
    path = folder / "evaluate" / "ranks.safetensors"
    if not path.exists():
        return {}
    return {name.split("/")[0]: ranks for name, ranks in store.read_tensors(path).items()}


def cells(options: argparse.Namespace) -> list[Contender]:
    """The plain backbone, then one group of models per fuser."""
    given = merge(read_toml(options.run / "config.toml"), parse_set(options.set))
    controls: Settings = {"infer": {"controls": options.controls}}
    plain = merge(given, parse_set(options.plain))
    found = [Contender("plain", plain, options.run, options.work)]
    for fuser in options.fuser:
        settings = merge(given, {"train": {"fuser": fuser, "plain": False}}, controls)
        found.append(Contender(fuser, settings, options.run, options.work))
    return found


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and evaluate what is missing, seed by seed; returns the content of the JSON file."""
    prepared = load(options.run / "prepare")
    every = cells(options)
    rows: dict[str, list[Tensor]] = {}
    found: dict[str, Any] = {}
    for seed in range(options.seeds):
        for cell in every:
            say(f"{cell.name}, seed {seed}")
            for variant, ranks in cell.ranks(seed).items():
                rows.setdefault(row_name(cell, variant), []).append(ranks)
        found = about(options, prepared, seed + 1) | results(every, rows, prepared)
        if options.json:
            store.write_text(options.json, json.dumps(found, indent=1) + "\n")
    return found


def results(
    every: Sequence[Contender], rows: Mapping[str, list[Tensor]], prepared: Prepared
) -> dict[str, Any]:
    """Rows, significance tests and groups, from the ranks of the finished seeds."""
    numbers = numbers_of(prepared)
    rare = numbers["target"] <= RARE
    groups = torch.searchsorted(prepared.sessions.offsets, prepared.samples["test"].end, right=True)
    split = breakdown(rows, numbers, K)
    left_out = {"seed", "seeds", "workers", "baselines", "plain"}
    return {
        "settings": {
            one.name: one.config(0).train.model_dump(mode="json", exclude=left_out) for one in every
        },
        "rare": {"at_most": RARE, "samples": int(rare.sum())},
        "rows": [{"name": name} | figures(ranks, rare) for name, ranks in rows.items()],
        "comparisons": [
            compare(rows, pair, rare, groups) | {"groups": gains(split, pair)} for pair in pairs(every, rows)
        ],
        "breakdown": split,
    }


def row_name(cell: Contender, variant: str) -> str:
    """`plain` or `FUSER SOURCE`."""
    if cell.name == "plain":
        return "plain"
    source = cell.settings["infer"]["llm"] if variant == "llm" else variant
    return f"{cell.name} {source}"


def pairs(every: Sequence[Contender], rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each fuser's intents against its own controls and against the plain backbone."""
    found = []
    for cell in every[1:]:
        told = row_name(cell, "llm")
        others = [name for name in rows if name.startswith(f"{cell.name} ") and name != told]
        found += [(told, other) for other in (*others, "plain")]
    return found


def figures(ranks: Sequence[Tensor], rare: Tensor) -> dict[str, Any]:
    """Mean, deviation and values over seeds, of all test samples and of those with a rare target."""
    found: dict[str, Any] = {}
    for part, inside in (("", torch.ones_like(rare)), ("rare ", rare)):
        found[f"{part}HR@{K}"] = over([metrics.hit_rate(one[inside], K) for one in ranks])
        found[f"{part}MRR@{K}"] = over([metrics.reciprocal_rank(one[inside], K) for one in ranks])
    return found


def over(seeds: Sequence[Tensor]) -> dict[str, Any]:
    """`metrics.over_seeds` of the means."""
    return metrics.over_seeds([float(one.double().mean()) for one in seeds])


def compare(
    rows: Mapping[str, Sequence[Tensor]], pair: tuple[str, str], rare: Tensor, groups: Tensor
) -> dict[str, Any]:
    """Relative gain and p-value of the first row over the second, per metric."""
    found: dict[str, Any] = {"row": pair[0], "against": pair[1]}
    measures = {f"HR@{K}": metrics.hit_rate, f"MRR@{K}": metrics.reciprocal_rank}
    for part, inside in (("", torch.ones_like(rare)), ("rare ", rare)):
        for name, measure in measures.items():
            new, old = (
                torch.stack([measure(one[inside], K).double() for one in rows[row]]).mean(0) for row in pair
            )
            p = metrics.paired_test({name: new - old}, groups[inside])[name]
            gain = float(new.mean() / old.mean()) - 1 if old.any() else None
            found[part + name] = {"gain": gain, "p": p}
    return found


def gains(
    split: Mapping[str, Sequence[Mapping[str, Any]]], pair: tuple[str, str]
) -> dict[str, dict[str, Any]]:
    """Relative HR@K of a pair in every group of the breakdown."""
    found = {}
    for kind, entries in split.items():
        for entry in entries:
            new, old = (entry["rows"][row][f"HR@{K}"] for row in pair)
            gain = new / old - 1 if old else None
            worse = gain is not None and gain < -TOLERANCE
            name = f"{kind} {entry['name'] or entry['range']}"
            found[name] = {"samples": entry["samples"], "gain": gain, "worse": worse}
    return found


def about(options: argparse.Namespace, prepared: Prepared, seeds: int) -> dict[str, Any]:
    """Circumstances of the measurement."""
    stats = prepared.stats
    return {
        "command": command(options),
        "seeds": seeds,
        "seeds_asked_for": options.seeds,
        "catalogue": prepared.catalogue.size,
        "samples": {name: len(one.key) for name, one in prepared.samples.items()},
        "rules": stats["rules"],
        "data": read_toml(options.run / "config.toml").get("data", {}) | {"path": "FOLDER"},
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "llm4sbr": registry.core_version(),
        },
        "cores": os.cpu_count(),
    }


def command(options: argparse.Namespace) -> str:
    """The command line of this measurement, without this machine's paths."""
    words = [f"--fuser {one}" for one in options.fuser] + [f"--seeds {options.seeds}"]
    words += [f"--set {one}" for one in options.set] + [f"--plain {one}" for one in options.plain]
    return f"python benchmarks/intents.py RUN {' '.join(words)} --controls {','.join(options.controls)}"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("run", type=Path, help="a run directory that is prepared and localized")
    parser.add_argument("--work", type=Path, help="where models go; by default RUN/intents")
    parser.add_argument("--fuser", action="append", help="may be repeated; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--controls", type=lambda text: text.split(","), default=["shuffled", "none"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every model")
    parser.add_argument("--plain", action="append", default=[], metavar="KEY=VALUE", help="of the plain one")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args(given)
    options.work = options.work or options.run / "intents"
    options.fuser = options.fuser or [one.name for one in registry.components("fusers")]
    return options


def main() -> None:
    """Measure, write the JSON, print the table."""
    found = measure(arguments(), lambda text: print(text, file=sys.stderr, flush=True))
    print(table(found))


if __name__ == "__main__":
    main()
