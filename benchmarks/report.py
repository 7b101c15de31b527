"""Tables of `benchmarks/README.md` from `benchmarks/results/*.json`.

    python benchmarks/report.py [FOLDER=NAME ...]

With FOLDER=NAME the experiment in FOLDER is first copied to `results/experiment-NAME.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from experiment_tables import experiment_section, keep

HERE = Path(__file__).parent


def training_table(found: dict[str, Any]) -> str:
    """The results of `training.py` as a Markdown table."""
    lines = [
        "| backbone | threads | what | samples/s (CPU time) | samples/s (wall) | s/epoch | peak memory "
        "| time / plain | memory / plain | times the common approach |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row, found["rows"]) for row in found["rows"]])


def _line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    plain, common = _like(row, rows, "plain"), _like(row, rows, f"common {row['kind']}")
    fast = not row["kind"].startswith("common")
    clock = "cpu" if row["threads"] == 1 else "wall"  # one thread: other work on the machine does not count
    rate = row["samples_per_second"]
    cells = [row["backbone"], row["threads"], row["kind"], f"{rate['cpu']:,.0f}", f"{rate['wall']:,.0f}"]
    cells += [f"{row['seconds_per_epoch']:.1f}", f"{row['peak_memory'] / 2**20:.0f} MB" if fast else ""]
    cells += [f"{plain['samples_per_second'][clock] / rate[clock]:.2f}" if plain and fast else ""]
    cells += [f"{row['peak_memory'] / plain['peak_memory']:.3f}" if plain and fast else ""]
    cells += [f"{rate[clock] / common['samples_per_second'][clock]:.1f}" if common else ""]
    return f"| {' | '.join(map(str, cells))} |"


def _like(row: dict[str, Any], rows: list[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    alike = [
        one
        for one in rows
        if (one["backbone"], one["threads"], one["kind"]) == (row["backbone"], row["threads"], kind)
    ]
    return alike[0] if alike else None


def training_section() -> str:
    """One part per results file."""
    parts = []
    for path in sorted((HERE / "results").glob("training-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
        parts.append(
            f"### {path.stem.removeprefix('training-')}\n\n"
            f"{found['training_samples']:,} training samples of {found['average_prefix']:.1f} clicks, "
            f"{found['catalogue']:,} items, {len(found['perspectives'])} perspectives of {found['text_dim']} "
            f"dimensions; epochs {found['epoch']} from {found['measured_samples']:,} samples "
            f"({found['common_samples']:,} for the common approach). {found['cpu']}, {found['cores']} cores, "
            f"load {found['load']:.1f}; {versions}; seed {found['seed']}.\n\n"
            f"`{found['command']}`\n\n{training_table(found)}"
        )
    return "\n\n".join(parts)


SECTIONS = {"training": training_section, "experiments": experiment_section}
"""What stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` -> what makes it."""


def rendered(text: str) -> str:
    """The README with every table made anew."""
    for name, section in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{section()}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Take results over, and write the tables into the README, between their marks."""
    for text in sys.argv[1:]:
        folder, _, name = text.rpartition("=")
        keep(Path(folder), name)
    readme = HERE / "README.md"
    readme.write_text(rendered(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
