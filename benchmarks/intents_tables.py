"""Tables of `benchmarks/README.md` about the gain from intents, from the results of `intents.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
K = 20


def intents_section() -> str:
    """One part per results file."""
    parts = []
    for path in sorted(RESULTS.glob("intents-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        samples, rules, rare = found["samples"], found["rules"], found["rare"]
        done, asked = found["seeds"], found["seeds_asked_for"]
        seeds = "one seed" if asked == 1 else f"{done} seeds" if done == asked else f"{done} of {asked} seeds"
        parts.append(
            f"### {path.stem}\n\n"
            f"{samples['train']:,} training and {samples['test']:,} test samples, {rare['samples']:,} of "
            f"them with a target seen at most {rare['at_most']} times in training (rare); "
            f"{found['catalogue']:,} items; split {rules['split']}, sessions {rules['sessions']}, "
            f"trained on {rules['train_prefixes']} prefixes, tested on {rules['test_prefixes']}; "
            f"{seeds}.\n\n`{found['command']}`\n\n{table(found)}"
        )
    return "\n\n".join(parts)


def table(found: Mapping[str, Any]) -> str:
    """Rows and comparisons as Markdown, in percent."""
    names = [f"{part}{name}@{K}" for part in ("", "rare ") for name in ("HR", "MRR")]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in found["rows"]:
        cells = [f"{100 * row[name]['mean']:.2f} ± {100 * row[name]['std']:.2f}" for name in names]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    lines += ["", "| | " + " | ".join(names) + " | worse groups |", "|---" * (len(names) + 2) + "|"]
    for one in found["comparisons"]:
        cells = [_gain(one[name]) for name in names]
        worse = [f"{name} {group['gain']:+.1%}" for name, group in one["groups"].items() if group["worse"]]
        title = f"{one['row']} against {one['against']}"
        lines.append(f"| {title} | {' | '.join(cells)} | {', '.join(worse) or 'none'} |")
    return "\n".join(lines)


def _gain(one: Mapping[str, Any]) -> str:
    return "" if one["gain"] is None else f"{one['gain']:+.1%} (p {one['p']:.2g})"
