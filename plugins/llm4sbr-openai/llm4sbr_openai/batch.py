"""Offline batches: writes a run's missing prompts as a Batch API file, and imports the results.

`requests` writes the file, which is sent to the server with its own tools; `answers` puts the results into
the run's answer cache. Only answers to prompts of the run are accepted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from llm4sbr import registry
from llm4sbr.asking.asker import storable
from llm4sbr.asking.cache import Answer
from llm4sbr.asking.questions import missing_prompts, open_answer_cache
from llm4sbr.config import in_force
from llm4sbr.errors import ConfigError, DataError, Llm4sbrError, ModelUnavailableError
from llm4sbr.printable import printable, short
from llm4sbr.secrets import mask
from llm4sbr.store import open_for_reading, writing
from llm4sbr_openai.reply import said

ASK = "see what the service says about the batch, and send the requests again"
"""Advice where the reason has none of its own."""

LONGEST = 10_000_000
"""Maximum length of a result line in bytes."""


@click.group()
def cli() -> None:
    """OpenAI Batch API files for llm4sbr runs whose LLM is `openai:MODEL`."""


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
def requests(run: Path, file: Path) -> None:
    """Write FILE with a request for every prompt of RUN that has no answer yet."""
    config = in_force.configure(run)
    llm = _llm(config.infer.llm, config.infer.options)
    count = 0
    with writing(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for key, prompt in missing_prompts(run, config):
            line = {
                "custom_id": key.hex(),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": llm.request(prompt),
            }
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    click.echo(f"{file}: {count:,} requests")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path, exists=True))
def answers(run: Path, file: Path) -> None:
    """Put the results of a batch, FILE, into the answer cache of RUN."""
    config = in_force.configure(run)
    llm = _llm(config.infer.llm, config.infer.options)
    wanted = {key for key, _ in missing_prompts(run, config)}
    found: dict[bytes, Answer] = {}
    failed = foreign = 0
    reason = hint = ""
    for key, answer in _results(file, llm.stops):
        foreign += key not in wanted
        if key in wanted and isinstance(answer, Answer):
            found[key] = answer
        elif key in wanted:
            failed, reason, hint = failed + 1, str(answer), getattr(answer, "hint", "")
    why = f" ({short(mask(reason))})" if reason else ""
    if failed and not found:
        raise ModelUnavailableError(f"{file}: {failed:,} results and no answer{why}; {hint or ASK}")
    with open_answer_cache(config.infer) as cache:
        new = cache.put_many(found, llm=llm.fingerprint)
    said = f"{new:,} new answers, {failed:,} failed{why}, {foreign:,} not of this run"
    click.echo(printable(f"{file}: {said}; {len(wanted) - len(found):,} missing"))


def _llm(name: str, options: dict[str, Any]) -> Any:
    llm = registry.create("llms", name, **options)
    if not hasattr(llm, "request"):
        raise ConfigError(f"infer.llm = {name!r}: offline batches are for openai:MODEL")
    return llm


def _results(file: Path, stops: Sequence[str]) -> Iterator[tuple[bytes, Answer | ValueError]]:
    number = 0
    with open_for_reading(file) as stream:
        while line := stream.readline(LONGEST + 1):
            number += 1
            if not line.strip():
                continue
            try:
                yield _result(json.loads(line.decode("utf-8-sig")), stops)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
                raise DataError(
                    f"{file}:{number}: not a result of a batch ({type(error).__name__}: {error}); "
                    "no answer was added"
                ) from None


def _result(line: dict[str, Any], stops: Sequence[str]) -> tuple[bytes, Answer | ValueError]:
    """Key and answer of a line, or why there is none."""
    key = bytes.fromhex(line["custom_id"])
    response = line.get("response") or {}
    status = response.get("status_code")
    if line.get("error") or status != 200:
        return key, ValueError(str(line.get("error") or f"status {status}"))
    try:
        text, asked, answered = said(response.get("body"), stops)
    except ValueError as error:
        return key, error
    return key, Answer(storable(text), 0.0, asked + answered)


def main() -> None:
    """Run the command; an error is printed as one line, with exit code 2."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again", err=True)
        sys.exit(130)
    except Llm4sbrError as error:
        click.echo(printable(f"error: {error}"), err=True)
        sys.exit(2)
