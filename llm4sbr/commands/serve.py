"""`llm4sbr serve`: an exported model over HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from llm4sbr.commands.options import Command, common, filter_option


def _option(flag: str, default: object, text: str, type_: Any = None) -> Callable[[Command], Command]:
    return click.option(flag, default=default, show_default=True, type=type_, help=text)


class _Amount(click.FloatRange):
    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """A number that is one: a range also lets `nan` and `inf` pass."""
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value!r} is not a valid number.", param, ctx)
        return found


class _Name(click.types.StringParamType):
    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """A text that says something and fits between two slashes of a URL."""
        if not value.strip() or "/" in value:
            self.fail(f"{value!r} is empty or has a slash.", param, ctx)
        return value


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="RUN_OR_EXPORT | NAME=RUN_OR_EXPORT...")
@click.option("--split", metavar="NAME=SHARE,...", help="Shares of /recommend.  [all to the first model]")
@click.option("--shadow", metavar="NAMES", default="", help="Models that compute along and answer nothing.")
@_option("--host", "127.0.0.1", "Address to listen on.", _Name())
@_option("--port", 8000, "Port; 0 takes a free one.", click.IntRange(0, 65535))
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), help="Port for gRPC; 0 takes a free one.  [no gRPC]"
)
@_option("--name", "llm4sbr", "The model's name in /v2/models/NAME, if it is the only one.", _Name())
@_option("--threads", 1, "Compute a batch with so many.", click.IntRange(1))
@_option("--max-batch", 32, "Sessions computed at once.", click.IntRange(1))
@_option("--max-delay", 0.0, "Milliseconds to wait for more sessions while idle.", _Amount(0, 1000))
@_option("--queue", 256, "Sessions that may wait; more get 429.", click.IntRange(1))
@_option("--max-body", 2.0, "MiB of a request; more gets 413.", _Amount(0.001))
@_option("--connections", 4096, "Open at once; more get 503.", click.IntRange(1))
@_option("--timeout", 10.0, "Seconds to send a request, or to take its answer.", _Amount(0.1))
@_option("--drain", 30, "Seconds to finish after SIGTERM.", click.IntRange(0))
@_option("--watch", 2.0, "Seconds between looks for a new version; 0: none.", _Amount(0))
@click.option(
    "--allowed-hosts",
    metavar="NAMES",
    default="",
    help="Names, comma-separated, that a request's Host may have; others get 421.  [any]",
)
@filter_option
@click.option("--access-log", is_flag=True, help="Log every request.")
@common
def serve(
    models: tuple[str, ...],
    split: str | None,
    shadow: str,
    name: str,
    max_delay: float,
    max_body: float,
    allowed_hosts: str,
    filters: dict[str, Path],
    as_json: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Answer live sessions over HTTP with exported models.

    RUN_OR_EXPORT is a run directory, or the folder that export wrote, which is all a serving machine needs.
    Open Inference Protocol at /v2, and over gRPC with --grpc-port; plain JSON at /recommend, metrics at
    /metrics, a page to try it at /.
    Several models have names, A=RUN_OR_EXPORT B=RUN_OR_EXPORT, and share the requests: --split A=90,B=10.
    A new version in the folder is taken up as soon as it is whole; SIGTERM stops the server when every open
    request is answered. Logs are lines of JSON on standard error.
    """
    from llm4sbr.serving.server.run import serve as run
    from llm4sbr.serving.server.served import parse_models
    from llm4sbr.serving.server.settings import MIB, Settings
    from llm4sbr.serving.server.split import parse_split

    paths = parse_models(models, name)
    shares = None if split is None else parse_split(split)
    shadows = [one.strip() for one in shadow.split(",") if one.strip()]
    hosts = tuple(name.strip(" []").lower() for name in allowed_hosts.split(",") if name.strip())
    limits: dict[str, Any] = {"max_delay": max_delay / 1000, "max_body": int(max_body * MIB)}
    settings = Settings(name=name, allowed_hosts=hosts, **limits, **options)
    run(paths, settings, shares=shares, shadows=shadows, filters=filters)
