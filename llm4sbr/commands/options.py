"""Options of the command line, and the settings that they set."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from llm4sbr.errors import InputError
from llm4sbr.printable import escaped, printable
from llm4sbr.stamps import SECTIONS, STAGE_NAMES

if TYPE_CHECKING:
    from llm4sbr.config import Settings

Command = Callable[..., None]

SESSION_RULES = click.Choice(["session", "user", "gap", "bins"])
PROTOCOLS = click.Choice(["default", "paper"])
SPLITS = click.Choice(["temporal", "random", "paper", "leave-last-out"])


class Setting(NamedTuple):
    """A setting with its own command-line option."""

    flag: str
    key: str
    help: str
    default: str = ""
    """The default shown in the help; the real one is in the configuration."""
    type: Any = str
    metavar: str | None = "NAME"

    @property
    def parameter(self) -> str:
        """Name of the option's Python parameter."""
        return self.key.replace(".", "__")

    @property
    def stage(self) -> str:
        """The first stage that reads it."""
        return SECTIONS[self.key.partition(".")[0]]


SETTINGS = (
    Setting("--dataset", "data.reader", "How to read the log: ml-100k, ml-1m, amazon, csv ...", "ml-100k"),
    Setting("--data", "data.path", "Its file or folder.", "downloaded if possible", metavar="PATH"),
    Setting(
        "--protocol",
        "protocol",
        "paper: the paper's split and training, best epoch on the test set.",
        "default",
        PROTOCOLS,
        None,
    ),
    Setting("--sessions", "data.sessions", "What defines a session.", "by the data", SESSION_RULES, None),
    Setting("--split", "data.split", "How test data is chosen.", "by the data", SPLITS, None),
    Setting("--max-sessions", "data.max_sessions", "Keep the N most recent sessions.", "all", int, "N"),
    Setting("--sample", "data.sample", "Keep a random share of the sessions.", "all", float, "SHARE"),
    Setting("--llm", "infer.llm", "The LLM; also transformers:FOLDER_OR_ID.", "none"),
    Setting(
        "--perspective",
        "infer.perspectives",
        "Ways to ask the LLM, comma-separated.",
        "long,short",
        metavar="NAMES",
    ),
    Setting("--wording", "infer.wording", "paper, natural or a TOML file of prompts.", "paper"),
    Setting(
        "--llm-budget", "infer.budget", "Ask at most 20000 prompts, or for 30m.", "none", metavar="AMOUNT"
    ),
    Setting(
        "--select",
        "infer.select",
        "Which samples are asked first if a budget does not cover all.",
        "coverage",
        click.Choice(["coverage", "random", "recent", "uncertain"]),
        None,
    ),
    Setting(
        "--controls",
        "infer.controls",
        "Replacements for the LLM to compare with, comma-separated.",
        "item-text,shuffled,none",
        metavar="NAMES",
    ),
    Setting("--engine", "engine.name", "Where infer and localize work: local, ray.", "local"),
    Setting("--encoder", "localize.encoder", "Text encoder; also transformers:FOLDER_OR_ID.", "bert"),
    Setting("--localizer", "localize.localizer", "How answers are tied to items.", "nearest"),
    Setting("-f", "localize.f", "Items an answer is tied to; 0: the answer itself.", "5", int, "F"),
    Setting("--backbone", "train.backbone", "Session encoder.", "sr-gnn"),
    Setting("--fuser", "train.fuser", "How session vectors and intents are combined.", "whitened"),
    Setting("--epochs", "train.epochs", "Maximum number of epochs.", "30", int, "N"),
    Setting("--seeds", "train.seeds", "Number of seeds, for mean and deviation.", "1", int, "N"),
    Setting("--seed", "train.seed", "The first seed.", "0", int, "N"),
    Setting("--device", "train.device", "cpu, cuda, cuda:1 ...", "auto"),
    Setting("--workers", "train.workers", "Models trained in parallel.", "one per core", int, "N"),
)
"""Settings with their own options; all others are set by `--set`."""

START = (
    "An older run whose models this one's start from; a new RUN takes its settings. none: start anew.  [as "
    "before]"
)

LISTS = frozenset({"infer.perspectives", "infer.controls"})
"""Settings whose option takes a comma-separated list."""


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text, which may repeat what others wrote."""
    click.echo(printable(text, most=sys.maxsize), err=err, nl=nl)


def print_json(value: object) -> None:
    """Print a command's result on standard output, for `--json`."""
    click.echo(json_text(value, indent=2))


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON with escapes if standard output is not UTF-8."""
    encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "")
    return escaped(json.dumps(value, indent=indent, ensure_ascii=encoding != "utf8"))


def common(command: Command) -> Command:
    """Options that every command has."""
    command = click.option("--debug", is_flag=True, help="Show the traceback of an error.")(command)
    command = click.option("-q", "--quiet", is_flag=True, help="No progress.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)


def refitted_option(command: Command) -> Command:
    """`--refitted`, of commands that serve a run's model."""
    return click.option(
        "--refitted/--no-refitted",
        default=None,
        help="The model that `llm4sbr refit` trained on all sessions, or the one that was tested; by default "
        "the refitted one if there is one.",
    )(command)


def sources(command: Command) -> Command:
    """`--config` and `--set`."""
    key = click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting.")
    file = click.option(
        "--config", "file", type=click.Path(path_type=Path), help="Settings from a TOML file."
    )
    return file(key(command))


def stage_options(until: str, *, required: bool = True) -> Callable[[Command], Command]:
    """RUN, the options of a stage and of all stages before it, and the common options."""
    reached = STAGE_NAMES[: STAGE_NAMES.index(until) + 1]

    def decorate(command: Command) -> Command:
        command = sources(common(command))
        command = click.option("--force", is_flag=True, help=f"Redo {until} even if it is fresh.")(command)
        if "train" in reached:
            command = click.option("--from", "start", metavar="OLD", help=START)(command)
        for setting in reversed([s for s in SETTINGS if s.stage in reached]):
            command = _option(setting)(command)
        return click.argument("run", type=click.Path(path_type=Path), required=required)(command)

    return decorate


def chosen_settings(file: Path | None, assignments: tuple[str, ...], options: dict[str, Any]) -> Settings:
    """Settings from a file, from `--set` and from options by parameter name; later ones win."""
    from llm4sbr.config import merge, nest, parse_set, read_toml

    given: dict[str, Any] = {}
    for setting in SETTINGS:
        value = options.get(setting.parameter)
        if value is not None:
            given[setting.key] = _names(value) if setting.key in LISTS else value
    return merge(read_toml(file) if file else {}, parse_set(assignments), nest(given))


def _option(setting: Setting) -> Callable[[Command], Command]:
    return click.option(
        setting.flag,
        setting.parameter,
        type=setting.type,
        metavar=setting.metavar,
        help=f"{setting.help}  [{setting.default}]",
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _filters(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for one in given:
        name, sign, path = one.partition("=")
        if not sign or not path:
            raise InputError(f"--filter {one}: expected NAME=FILE, such as in_stock=stock.txt")
        found[name.strip()] = Path(path).expanduser()
    return found


filter_option = click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=FILE",
    callback=_filters,
    help="A named filter, such as in_stock: FILE has the keys of the items that pass, one per line.",
)
"""The option `--filter`, as a dictionary `filters`."""


def items_of(name: str, given: str | None) -> list[str | int] | None:
    """Keys from a text with commas, or from `@FILE` with a key per line; None if there is no text.

    Raises:
        InputError: the file cannot be read.
    """
    from llm4sbr.serving.filters import items, keys_of

    if given is None:
        return None
    if given.startswith("@"):
        return [*keys_of(Path(given[1:]).expanduser())]
    return [*items(name, given)]
