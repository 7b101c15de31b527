"""`llm4sbr experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm4sbr.commands.options import common, print_json, say, sources

SETTINGS = {
    "llm": "infer.llm",
    "encoder": "localize.encoder",
    "epochs": "train.epochs",
    "seeds": "train.seeds",
    "sample": "data.sample",
}
"""Option -> the setting it sets in every cell."""


@click.command()
@click.argument("kind", type=click.Choice(["table2", "ablation", "localization", "memory", "related"]))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    default=("ml-1m", "amazon"),
    show_default=True,
    metavar="NAME[=PATH]",
    help="A reader's name; NAME=READER:PATH gives the data another name. Repeatable.",
)
@click.option("--backbone", metavar="NAMES", help="Comma-separated.  [table2: the paper's four, else sr-gnn]")
@click.option(
    "--perspective",
    "perspectives",
    multiple=True,
    default=("long,short",),
    show_default=True,
    metavar="NAMES",
    help="Perspectives of one model, comma-separated; repeat the option for more cells.",
)
@click.option("-f", "--f", metavar="NUMBERS", help="Comma-separated.  [localization: 0,1,3,5, else 5]")
@click.option(
    "--protocol",
    "protocols",
    default="default",
    show_default=True,
    help="default, paper or both, comma-separated.",
)
@click.option("--llm", help="The LLM.  [item-text]")
@click.option("--encoder", help="Text encoder.  [bert]")
@click.option("--epochs", type=int, help="Maximum number of epochs.  [30, memory: 1]")
@click.option("--seeds", type=int, help="Number of seeds, for mean and deviation.  [1]")
@click.option("--sample", type=float, help="Keep a random share of the sessions.  [all]")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Cells trained in parallel."
)
@click.option(
    "--vary",
    multiple=True,
    metavar="KEY=VALUES",
    help="Values of any setting, comma-separated, with cells for each value. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="List the cells and run none.")
@sources
@common
def experiment(
    kind: str,
    folder: Path,
    datasets: tuple[str, ...],
    backbone: str | None,
    perspectives: tuple[str, ...],
    f: str | None,
    protocols: str,
    jobs: int,
    vary: tuple[str, ...],
    dry_run: bool,
    file: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Run one of the paper's experiments, or all related systems, in FOLDER, with a run for each cell.

    The same command resumes an interrupted experiment. Any other setting can be given by --set.
    """
    from llm4sbr.config import merge, nest, parse_set, read_toml
    from llm4sbr.experiments.grid import Dataset, Request, cells, names, numbers, parse_vary
    from llm4sbr.experiments.runner import failures, run_experiment
    from llm4sbr.progress import Progress
    from llm4sbr.report import REPORT
    from llm4sbr.report.terminal.experiment import show_experiment

    given = {SETTINGS[name]: value for name, value in options.items() if value is not None}
    request = Request(
        kind,
        [Dataset.parse(text) for text in datasets],
        names(protocols),
        names(backbone),
        numbers("--f", f),
        [names(text) for text in perspectives],
        merge(read_toml(file) if file else {}, parse_set(assignments), nest(given)),
        parse_vary(vary),
    )
    if dry_run:
        listed = cells(request)
        if as_json:
            print_json([{"name": cell.name, "axes": cell.axes} for cell in listed])
        else:
            say("\n".join(cell.name for cell in listed))
        return
    content = run_experiment(folder, request, jobs=jobs, progress=Progress(quiet=quiet))
    if as_json:
        print_json(content)
    else:
        show_experiment(content)
        say(f"\nReport: {folder / REPORT}")
    failed = failures(content)
    for line in failed:
        say(line, err=True)
    if failed:
        raise click.exceptions.Exit(2)
