"""Finds components by name through entry points, built-in ones and plugins alike.

Listing imports nothing. A component's module is imported when the component is used, so a broken plugin
affects only its own components.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress
from difflib import get_close_matches
from functools import cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points, version
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name

from llm4sbr.errors import Llm4sbrError, RegistryError
from llm4sbr.option_types import wrong_types
from llm4sbr.protocols import PLUGIN_API
from llm4sbr.system import installation

CORE = installation.CORE

KINDS = (
    "readers",
    "llms",
    "perspectives",
    "encoders",
    "localizers",
    "backbones",
    "fusers",
    "baselines",
    "exporters",
    "engines",
    "loggers",
)
"""Every kind of component; its entry-point group is `llm4sbr.<kind>`."""

TARGET = re.compile(r"[\w.]+\s*(:\s*[\w.]+)?\s*(\[.*\])?\s*")
"""The target of an entry point, as the Python packaging specification defines it."""

OFFERED = {
    ("llms", "embedded"): "llm4sbr-embedded",
    ("encoders", "embedded"): "llm4sbr-embedded",
    ("llms", "openai"): "llm4sbr-openai",
    ("llms", "vllm"): "llm4sbr-vllm",
    ("localizers", "faiss"): "llm4sbr-faiss",
    ("engines", "ray"): "llm4sbr-ray",
    ("backbones", "core"): "llm4sbr-sequential",
    ("backbones", "niser"): "llm4sbr-sequential",
    ("backbones", "lessr"): "llm4sbr-sequential",
    ("backbones", "atten-mixer"): "llm4sbr-sequential",
    ("backbones", "hide"): "llm4sbr-sequential",
    ("backbones", "msgat"): "llm4sbr-sequential",
    ("backbones", "kmvg"): "llm4sbr-sequential",
    ("perspectives", "category"): "llm4sbr-perspectives",
    ("perspectives", "next-category"): "llm4sbr-perspectives",
    ("perspectives", "price"): "llm4sbr-perspectives",
    ("perspectives", "novelty"): "llm4sbr-perspectives",
    ("perspectives", "explain"): "llm4sbr-perspectives",
    ("fusers", "nullspace"): "llm4sbr-nullspace",
    ("loggers", "mlflow"): "llm4sbr-mlflow",
    ("loggers", "wandb"): "llm4sbr-wandb",
    ("baselines", "list-wise"): "llm4sbr-related",
    ("baselines", "pair-wise"): "llm4sbr-related",
    ("baselines", "point-wise"): "llm4sbr-related",
    ("baselines", "zero-shot-rating"): "llm4sbr-related",
    ("baselines", "llamarec"): "llm4sbr-related",
    ("baselines", "gpt4rec"): "llm4sbr-related",
    ("baselines", "po4isr"): "llm4sbr-related",
    ("fusers", "ctrl"): "llm4sbr-related",
    ("localizers", "validated-pool"): "llm4sbr-related",
}
"""Components of our own packages that may not be installed: (kind, name) -> package to install."""


class Component(NamedTuple):
    """One installed component, not imported yet."""

    kind: str
    name: str
    package: str
    version: str
    target: str
    """`module:attribute`."""
    entry_point: EntryPoint

    @property
    def module(self) -> str:
        """The module of `target`, even if `target` is malformed."""
        return self.target.partition(":")[0].strip()


def components(kind: str | None = None) -> list[Component]:
    """All installed components or those of one kind, sorted by kind and name; `RegistryError` if unknown."""
    kinds = KINDS if kind is None else (_known_kind(kind),)
    found = [component for one in kinds for component in _found(one)]
    return sorted(found, key=lambda c: (KINDS.index(c.kind), c.name, c.package))


def find(kind: str, name: str) -> Component:
    """The component `name`, or `package:name` if several packages offer that name.

    Raises:
        RegistryError: no such component is installed, or several packages offer it.
    """
    installed = _found(_known_kind(kind))
    package, colon, bare = name.partition(":")
    matches = [c for c in installed if c.name == name]
    if not matches and colon:
        matches = [c for c in installed if c.name == bare and _same(c.package, package)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = " or ".join(sorted(f"{c.package}:{c.name}" for c in matches))
        raise RegistryError(f"{kind[:-1]} {name!r} is offered by several packages: ask for {choices}")
    raise RegistryError(_unknown(kind, name, installed))


def load(kind: str, name: str) -> Callable[..., Any]:
    """Import a component's class or factory.

    Raises:
        RegistryError: the name is unknown or ambiguous, or its package cannot be imported; the message names
            the package and what is missing.
    """
    component = find(kind, name)
    return _import(component)


def create(kind: str, name: str, /, **options: Any) -> Any:
    """Create a component with `options`; `name:argument` passes `model=argument` (`transformers:FOLDER`).

    Raises:
        RegistryError: as `load`; or the component does not take an option, or not with this value.
    """
    name, options = split_argument(kind, name, options)
    component = find(kind, name)
    factory = _import(component)
    _check_options(component, factory, options)
    try:
        return factory(**options)
    except Llm4sbrError:
        raise
    except Exception as error:
        if component.package == CORE and not isinstance(error, ValueError):  # our bug
            raise
        raise RegistryError(f"{_origin(component)} cannot be made: {_said(error)}") from error


def check(kind: str, name: str, options: dict[str, Any]) -> None:
    """Check options without creating the component.

    Raises:
        RegistryError: as `create`, except for missing options.
    """
    name, options = split_argument(kind, name, options)
    component = find(kind, name)
    _check_options(component, _import(component), options, all_given=False)


def split_argument(kind: str, name: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """`transformers:FOLDER` -> (`transformers`, options with `model=FOLDER`); other names unchanged."""
    head, colon, argument = name.partition(":")
    names = {c.name for c in _found(_known_kind(kind))}
    qualified = any(c.name == argument and _same(c.package, head) for c in _found(kind))
    if colon and argument and head in names and name not in names and not qualified:
        return head, {**options, "model": argument}
    return name, options


def suggestions(kind: str, name: str) -> dict[str, Any]:
    """Settings that a component suggests, by dotted key."""
    name, _ = split_argument(kind, name, {})
    return dict(getattr(load(kind, name), "suggests", {}))


def tunes(kind: str, name: str) -> dict[str, Any]:
    """The options that a component declares worth searching, see `protocols`: name -> its values."""
    name, _ = split_argument(kind, name, {})
    return dict(getattr(load(kind, name), "tunes", {}))


def versions(used: Iterable[tuple[str, str]]) -> dict[str, str]:
    """`{"backbones/sr-gnn": "llm4sbr==0.1.0"}` for the components a run used."""
    found = {}
    for kind, name in used:
        name, _ = split_argument(kind, name, {})
        component = find(kind, name)
        found[f"{kind}/{component.name}"] = f"{component.package}=={component.version}"
    return found


def core_version() -> str:
    """The installed version of this package."""
    return version(CORE)


@cache
def _entries(group: str) -> tuple[tuple[EntryPoint, str, str], ...]:
    found = {}
    for entry in _points(group):
        distribution = entry.dist
        package = (distribution and distribution.name) or "unknown"
        number = (distribution and distribution.version) or "?"
        found[entry.name, package, entry.value] = (entry, package, number)
    return tuple(found.values())


def _points(group: str) -> Iterable[EntryPoint]:
    try:
        return entry_points(group=group)
    except Exception:  # one package's broken metadata must not hide the others
        return [entry for one in _distributions() for entry in _own(one) if entry.group == group]


def _own(distribution: Distribution) -> Iterable[EntryPoint]:
    with suppress(Exception):
        return distribution.entry_points
    return ()


def _distributions() -> list[Distribution]:
    """Every installed package once; the first on the path counts."""
    seen: dict[str, Distribution] = {}
    for distribution in distributions():
        seen.setdefault(canonicalize_name(distribution.name or "unknown"), distribution)
    return list(seen.values())


def misdeclared() -> dict[str, str]:
    """Packages whose entry points for components are broken: name -> what is wrong."""
    found = {}
    for distribution in _distributions():
        name = distribution.name or "unknown"
        try:
            groups = {entry.group for entry in distribution.entry_points}
        except Exception:
            found[name] = "its entry_points.txt cannot be read"
            continue
        unknown = sorted(
            g for g in groups if g.startswith(f"{CORE}.") and g.removeprefix(f"{CORE}.") not in KINDS
        )
        if unknown:
            known = ", ".join(f"{CORE}.{kind}" for kind in KINDS)
            found[name] = f"the entry-point group {unknown[0]!r} is none; there are {known}"
    return found


def _found(kind: str) -> list[Component]:
    allowed = os.environ.get("LLM4SBR_PLUGINS")
    names = {CORE, *(canonicalize_name(part.strip()) for part in (allowed or "").split(",") if part.strip())}
    return [
        Component(kind, entry.name, package, number, entry.value, entry)
        for entry, package, number in _entries(f"llm4sbr.{kind}")
        if allowed is None or canonicalize_name(package) in names
    ]


def _import(component: Component) -> Callable[..., Any]:
    origin = _origin(component)
    try:
        if not TARGET.fullmatch(component.target):
            raise ValueError("its entry point must be MODULE:CLASS")
        with redirect_stdout(sys.stderr):  # standard output is reserved for results
            factory: Callable[..., Any] = component.entry_point.load()
    except ModuleNotFoundError as error:
        mend = installation.module_command(component.package, error.name or "", own=component.module)
        raise RegistryError(
            f"{origin} needs the module {error.name!r}, which is not installed: {mend}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a plugin raises at import
        raise RegistryError(f"{origin} cannot be imported: {_said(error)}") from error
    if not callable(factory):
        kind = "a module" if inspect.ismodule(factory) else f"of type {type(factory).__name__}"
        raise RegistryError(
            f"{origin} is {kind}, not a class: its entry point must be MODULE:CLASS, it is {component.target}"
        )
    written_for = getattr(factory, "plugin_api", PLUGIN_API)
    if written_for != PLUGIN_API:
        newer = isinstance(written_for, int) and written_for > PLUGIN_API
        raise RegistryError(
            f"{origin} was written for version {written_for!r} of the plugin protocols, this llm4sbr has "
            f"{PLUGIN_API}: {installation.upgrade_command(CORE if newer else component.package)}"
        )
    return factory


def _check_options(
    component: Component, factory: Callable[..., Any], options: dict[str, Any], *, all_given: bool = True
) -> None:
    parameters = inspect.signature(factory).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    accepted = [p.name for p in named]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [key for key in options if key not in accepted and not takes_any]
    missing = [p.name for p in named if p.default is p.empty and p.name not in options]
    label = f"{component.kind[:-1]} {component.name!r}"
    if unknown:
        takes = ", ".join(accepted) or "no options"
        raise RegistryError(f"{label} has no option {unknown[0]!r}; it takes: {takes}")
    if missing and all_given:
        raise RegistryError(f"{label} needs the option {missing[0]!r}")
    for name, problem in wrong_types(factory, options).items():
        raise RegistryError(f"{label}: option {name} = {options[name]!r}: {problem}")


def _unknown(kind: str, name: str, installed: list[Component]) -> str:
    names = sorted({c.name for c in installed})
    text = f"no {kind[:-1]} {name!r} is installed"
    offered = OFFERED.get((kind, name))
    if offered:
        return f"{text}: {installation.plugin_command(offered)}"
    if any(entry.name == name for entry, _, _ in _entries(f"llm4sbr.{kind}")):
        return f"{kind[:-1]} {name!r} is installed, but LLM4SBR_PLUGINS does not list its package"
    near = get_close_matches(name, names, n=1) or get_close_matches(name.partition(":")[0], names, n=1)
    hint = f", did you mean {near[0]!r}?" if near else "."
    return f"{text}{hint} Installed: {', '.join(names) or 'none'}."


def _known_kind(kind: str) -> str:
    if kind not in KINDS:
        raise RegistryError(f"no kind {kind!r}; kinds: {', '.join(KINDS)}")
    return kind


def _origin(component: Component) -> str:
    return f"{component.kind[:-1]} {component.name!r} of package {component.package} {component.version}"


def _said(error: BaseException) -> str:
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())
    except Exception:  # an exception whose text cannot be computed
        return type(error).__name__


def _same(first: str, second: str) -> bool:
    return canonicalize_name(first) == canonicalize_name(second)
