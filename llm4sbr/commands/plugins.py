"""`llm4sbr plugins` and `llm4sbr doctor`: lists, checks and creates components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llm4sbr.commands.options import common, print_json, say

if TYPE_CHECKING:
    from llm4sbr.doctor import Diagnosis


@click.group()
def plugins() -> None:
    """Installed components: list them, check them, write new ones."""


@plugins.command("list")
@click.argument("kind", required=False)
@common
def list_(kind: str | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """List the components of all kinds, or of one. Imports none of them."""
    from llm4sbr.registry import components

    found = components(kind)
    if as_json:
        print_json(
            [{key: value for key, value in c._asdict().items() if key != "entry_point"} for c in found]
        )
    else:
        from llm4sbr.report.terminal.stages import show_components

        show_components(found)


@plugins.command("doctor")
@common
def doctor_(as_json: bool, quiet: bool, debug: bool) -> None:
    """Import every component in a separate process: which fail, what they need, what is missing.

    Also shows what the machine has for them: CUDA, TensorRT, ONNX Runtime. Paste it into a bug report.
    """
    from llm4sbr.doctor import diagnose_plugins

    _show(diagnose_plugins(), as_json)


@plugins.command()
@click.argument("name")
@click.option("--kind", required=True, help="reader, llm, perspective, encoder, localizer, backbone ...")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write it.  [./NAME]")
@common
def new(name: str, kind: str, folder: Path | None, as_json: bool, quiet: bool, debug: bool) -> None:
    """Write a new plugin: a complete package whose component works and passes its tests."""
    from llm4sbr.scaffold import new_plugin

    written = new_plugin(name, kind, folder)
    if as_json:
        print_json([str(path) for path in written])
        return
    for path in written:
        say(str(path))
    place = folder or Path(name)
    say(f"Next: pip install -e '{place}[dev]' && pytest {place}")


@click.command()
@common
def doctor(as_json: bool, quiet: bool, debug: bool) -> None:
    """Check this machine: versions, devices, caches, clashing packages. Paste it into a bug report."""
    from llm4sbr.doctor import diagnose

    _show(diagnose(), as_json)


def _show(found: Diagnosis, as_json: bool) -> None:
    if as_json:
        print_json(found.as_dict())
    else:
        from llm4sbr.report.terminal.stages import show_diagnosis

        show_diagnosis(found)
    if not found.healthy:
        raise click.exceptions.Exit(2)  # something to repair, and no bug of ours
