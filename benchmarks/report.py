"""Tables of `benchmarks/README.md` from `benchmarks/results/*.json`.

    python benchmarks/report.py [FOLDER=NAME ...]

With FOLDER=NAME the experiment in FOLDER is first copied to `results/experiment-NAME.json`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiment_tables import experiment_section, keep
from infer_tables import infer_section
from intents_tables import intents_section
from latency_tables import latency_section
from memory_tables import memory_section
from peers_tables import peers_section
from serving_tables import serving_section
from store_tables import store_section
from training_tables import scale_section, training_section

HERE = Path(__file__).parent


SECTIONS = {
    "training": training_section,
    "scale": scale_section,
    "peers": peers_section,
    "experiments": experiment_section,
    "intents": intents_section,
    "asking": infer_section,
    "serving": serving_section,
    "latency": latency_section,
    "memory": memory_section,
    "store": store_section,
}
"""Section between `<!-- NAME: begin -->` and `<!-- NAME: end -->` -> function that generates it."""


def rendered(text: str) -> str:
    """The README with all tables generated again."""
    for name, section in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n\n{section()}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Copy experiment results, and write the tables into the README."""
    for text in sys.argv[1:]:
        folder, _, name = text.rpartition("=")
        keep(Path(folder), name)
    readme = HERE / "README.md"
    readme.write_text(rendered(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
