"""The cells of an experiment, each of which is a run: a grid over data sets, protocols and settings."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import available, registry
from llm4sbr.config import Settings, build, flatten, merge, nest, parse_values
from llm4sbr.errors import ConfigError
from llm4sbr.experiments.parts import BASELINES, Part, ablations, related

PAPER_BACKBONES = ("sr-gnn", "tagnn", "gce-gnn", "s2-dhcn")
COMMON: dict[str, Any] = {"infer.llm": "item-text", "train.baselines": BASELINES}
"""Default settings of all cells. `item-text` needs no LLM and no network."""


OWN_OPTIONS = {
    "protocol": "--protocol",
    "data.reader": "--dataset",
    "data.path": "--dataset",
    "infer.perspectives": "--perspective",
    "localize.f": "-f",
    "train.backbone": "--backbone",
}
"""Settings that are an axis of every experiment -> their command-line option."""


class Kind(NamedTuple):
    """An experiment, with the axes that it varies by default."""

    shows: str
    backbones: tuple[str, ...] = ("sr-gnn",)
    f: tuple[int, ...] = (5,)
    settings: dict[str, Any] = {}
    parts: Callable[[tuple[str, ...], Settings], list[Part]] | None = None
    """The cells in place of one, from its perspectives and the user's settings."""
    fresh_processes: bool = False
    """Whether each model is trained in a new process, so that its peak memory can be measured."""


KINDS = {
    "table2": Kind("every backbone, plain and with intents (Table 2)", PAPER_BACKBONES),
    "ablation": Kind("what each part of the method gives (Figure 4)", parts=ablations),
    "localization": Kind("metrics against f, the items an answer is tied to (Figure 5)", f=(0, 1, 3, 5)),
    "memory": Kind(
        "peak memory of training, plain and with intents (Table 3)",
        settings={"train.epochs": 1, "train.seeds": 1},
        fresh_processes=True,
    ),
    "related": Kind("the systems that the paper stands among, in one table (section 2)", parts=related),
}
"""The experiments by name."""


class Dataset(NamedTuple):
    """A raw log, and its name in tables and file names."""

    name: str
    reader: str
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Dataset:
        """Parse `ml-1m`, `ml-1m=FOLDER`, or `beauty=csv:FOLDER` (name, reader and path).

        Raises:
            ConfigError: the name is missing.
            RegistryError: the reader is unknown.
        """
        name, _, path = (part.strip() for part in text.partition("="))
        if not name:
            raise ConfigError(f"--dataset {text}: expected NAME, NAME=PATH or NAME=READER:PATH")
        reader, colon, rest = path.partition(":")
        readers = {component.name for component in registry.components("readers")}
        if colon and reader in readers:
            return cls(name, reader, rest)
        registry.find("readers", reader if colon and name not in readers else name)
        return cls(name, name, path or None)


class Request(NamedTuple):
    """The user's request; empty axes get the defaults of the kind."""

    kind: str
    datasets: Sequence[Dataset]
    protocols: Sequence[str] = ("default",)
    backbones: Sequence[str] = ()
    f: Sequence[int] = ()
    perspectives: Sequence[tuple[str, ...]] = (("long", "short"),)
    settings: Settings = {}
    """Settings for every cell."""
    vary: Mapping[str, Sequence[Any]] = {}
    """Further axes: setting, by dotted key -> its values."""


class Cell(NamedTuple):
    """One run of an experiment."""

    name: str
    axes: dict[str, Any]
    """`dataset`, `protocol`, `backbone`, `perspectives`, `f`, `part` if the experiment has parts, and the
    settings of `Request.vary` by dotted key."""
    settings: Settings
    notes: tuple[str, ...] = ()
    """What is not in its table, and why."""


def cells(request: Request) -> list[Cell]:
    """All cells, in the order of the table.

    Raises:
        ConfigError: there is no cell, two cells have the same name, or a setting is invalid.
        RegistryError: a backbone or perspective is unknown.
    """
    if request.kind not in KINDS:
        raise ConfigError(f"no experiment {request.kind!r}; there are {', '.join(KINDS)}")
    kind = KINDS[request.kind]
    backbones = request.backbones or kind.backbones
    for name in backbones:
        registry.find("backbones", name)
    for name in {one for views in request.perspectives for one in views}:
        registry.find("perspectives", name)
    _check_vary(request.vary)
    axes = product(request.datasets, request.protocols, backbones, request.perspectives, request.f or kind.f)
    varied = [dict(zip(request.vary, values, strict=True)) for values in product(*request.vary.values())]
    found = [cell for one in axes for values in varied for cell in _cells(request, *one, values)]
    for cell in found:
        available.check_baselines(build(cell.settings))
    called = [cell.name for cell in found]
    if not found or len(set(called)) < len(called):
        twice = next((name for name in called if called.count(name) > 1), None)
        raise ConfigError(
            f"{twice} is given twice" if twice else "the experiment has no cells; name a --dataset"
        )
    return found


def command(request: Request) -> str:
    """The command line for this request, with PATH and FOLDER in place of this machine's paths."""
    words = ["llm4sbr", "experiment", request.kind, "FOLDER"]
    for one in request.datasets:
        reader = f"{one.reader}:" if one.reader != one.name else ""
        words += ["--dataset", one.name + (f"={reader}PATH" if one.path else "")]
    words += ["--protocol", ",".join(request.protocols)]
    for perspectives in request.perspectives:
        words += ["--perspective", ",".join(perspectives)]
    words += ["--backbone", ",".join(request.backbones)] if request.backbones else []
    words += ["-f", ",".join(map(str, request.f))] if request.f else []
    for key, values in request.vary.items():
        words += ["--vary", f"{key}={','.join(map(_text, values))}"]
    for key, value in flatten(request.settings).items():
        words += ["--set", f"{key}={_text(value)}"]
    return shlex.join(words)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Parse the values of `--vary`, such as `train.dim=50,100`; `ConfigError` if a setting occurs twice."""
    found: dict[str, list[Any]] = {}
    for key, values in (parse_values("--vary", text) for text in texts):
        if key in found:
            raise ConfigError(f"--vary {key} is given twice; list all values in one --vary, with commas")
        found[key] = values
    return found


def _check_vary(vary: Mapping[str, Sequence[Any]]) -> None:
    """Refuse settings that have their own option, and sections, which are not single settings."""
    for key, values in vary.items():
        if key in OWN_OPTIONS:
            raise ConfigError(f"--vary {key}: use {OWN_OPTIONS[key]}")
        if any(isinstance(value, Mapping) for value in values):
            raise ConfigError(
                f"--vary {key}: this is a section; name one of its settings, such as {key}.KEY=VALUES"
            )


def _cells(
    request: Request,
    dataset: Dataset,
    protocol: str,
    backbone: str,
    perspectives: tuple[str, ...],
    f: int,
    varied: dict[str, Any],
) -> Iterator[Cell]:
    kind = KINDS[request.kind]
    whole = [Part("", perspectives)]
    for part in kind.parts(perspectives, request.settings) if kind.parts else whole:
        axes: dict[str, Any] = {"dataset": dataset.name, "protocol": protocol, "backbone": backbone}
        axes |= {"perspectives": list(part.perspectives), "f": f}
        axes |= varied | ({"part": part.name} if part.name else {})
        path = {"data.path": str(Path(dataset.path).expanduser().absolute())} if dataset.path else {}
        own = {
            "protocol": protocol,
            "data.reader": dataset.reader,
            "infer.perspectives": list(part.perspectives),
            "localize.f": f,
            "train.backbone": backbone,
        }
        defaults = nest(COMMON | kind.settings)
        settings = merge(defaults, request.settings, nest(varied), nest(own | path | part.settings))
        if not settings["train"]["baselines"]:  # nor options of any
            settings["train"] = {k: v for k, v in settings["train"].items() if k != "baseline_options"}
        yield Cell(_name(axes), axes, settings, part.notes)


def _name(axes: dict[str, Any]) -> str:
    """Name of the cell's folder."""
    words = [axes["dataset"], axes["protocol"], axes["backbone"], ".".join(axes["perspectives"])]
    words += [f"f{axes['f']}"]
    words += [f"{key.rpartition('.')[2]}-{_text(value)}" for key, value in axes.items() if "." in key]
    words += [axes["part"].replace(" ", "-")] if "part" in axes else []
    return "-".join("".join(c if c.isalnum() or c in "-._" else "-" for c in word) for word in words)


def names(text: str | None) -> tuple[str, ...]:
    """Parse a comma-separated list of names, such as `sr-gnn, tagnn`."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def numbers(option: str, text: str | None) -> tuple[int, ...]:
    """Parse a comma-separated list of numbers, such as `0,1,3`; the `ConfigError` names the option."""
    try:
        return tuple(int(part) for part in names(text))
    except ValueError:
        raise ConfigError(f"{option} {text}: expected whole numbers with commas, such as 0,1,3,5") from None
