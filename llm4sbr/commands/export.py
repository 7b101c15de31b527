"""`llm4sbr export`."""

from __future__ import annotations

from pathlib import Path

import click

from llm4sbr.commands.options import common, filter_option, print_json, refitted_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format", "formats", default="onnx", show_default=True, metavar="NAMES", help="Comma-separated."
)
@click.option(
    "--precision",
    "precisions",
    metavar="NAMES",
    help="fp32, int8, fp16, index.  [the format's own]",
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    metavar="SHARE",
    help="Share of the K best items that an index must find on test sessions.",
)
@click.option(
    "-k",
    "--k",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    metavar="K",
    help="Length of a list.",
)
@click.option(
    "--variant",
    help="Which trained model, or slist, item-knn ...; by default the best on validation.",
)
@click.option("--seed", type=int, metavar="N", help="Which seed.  [the best on validation]")
@click.option(
    "--intents",
    type=click.Choice(["input", "predictor", "none"]),
    help="Whether intents are an input, predicted in the graph, or none.  [predictor]",
)
@refitted_option
@click.option(
    "--attributes",
    metavar="NAMES",
    help="Attributes of the items that the export carries, comma-separated.  [all]",
)
@filter_option
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda", "tensorrt"]),
    default="auto",
    show_default=True,
    help="Execution provider for the verification; auto takes one that works.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    metavar="B",
    help="Maximum number of sessions per request, for engines.",
)
@common
def export(
    run: Path,
    formats: str,
    precisions: str | None,
    recall: float,
    k: int,
    variant: str | None,
    seed: int | None,
    intents: str | None,
    refitted: bool | None,
    attributes: str | None,
    filters: dict[str, Path],
    provider: str,
    max_batch: int,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Export a trained model of RUN into RUN/export, and verify it.

    Each format and precision gets its own folder. Exits with 3 if a format needs a GPU and there is none.
    """
    from llm4sbr.progress import Progress
    from llm4sbr.stages.export import Export
    from llm4sbr.stages.export import export as export_run

    wanted = Export(
        formats=_names(formats),
        precisions=_names(precisions or ""),
        recall=recall,
        k=k,
        variant=variant,
        seed=seed,
        intents=intents,
        refitted=refitted,
        attributes=None if attributes is None else _names(attributes),
        filters=filters,
        provider=provider,
        max_batch=max_batch,
    )
    found = export_run(run, wanted, Progress(quiet=quiet))
    if as_json:
        print_json(found)
    else:
        from llm4sbr.report.terminal.artefacts import show_artefacts

        show_artefacts(run / "export", found)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
