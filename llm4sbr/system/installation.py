"""How this copy of llm4sbr was installed, and the command that installs what it lacks.

A copy comes from a folder with the sources, from a wheel, or from a package index; pip writes down which
(`direct_url.json`, PEP 610). Every message that advises `pip install` takes the command from here, so that no
message names something that cannot be had where the copy came from.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from llm4sbr.errors import ModelUnavailableError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CORE = "llm4sbr"

ADVISED = (
    *("train", "serve", "grpc", "parquet", "index", "onnx", "gguf", "rtx", "tensorrt", "tune"),
    "tensorboard",
)
"""Extras that a message may advise, in the order in which a missing module is looked for in them."""

PLUGINS = "plugins"
"""Folder of the sources with the packages that depend on llm4sbr."""


class Origin(NamedTuple):
    """Where an installed package came from."""

    kind: str
    """`folder`, `wheel` (a file that is still there), `gone` (one no longer there, or a URL) or `index`."""
    path: Path | None = None
    """Of the folder or the wheel."""
    editable: bool = False


def origin(package: str = CORE) -> Origin:
    """Where `package` came from; one that is not installed counts as coming from an index."""
    try:
        text = distribution(package).read_text("direct_url.json")
        record = json.loads(text) if text else {}
    except (PackageNotFoundError, ValueError):
        record = {}
    if not record:
        return Origin("index")
    url = urlsplit(str(record.get("url", "")))
    path = Path(url2pathname(unquote(url.path))) if url.scheme == "file" else None
    if path is None or not path.exists():
        return Origin("gone")
    editable = bool(record.get("dir_info", {}).get("editable"))
    return Origin("folder" if path.is_dir() else "wheel", path, editable)


def command(*extras: str, package: str = CORE, force: bool = False) -> str:
    """The command that installs extras of a package, or the package again.

    Args:
        extras: names in `[project.optional-dependencies]`; none for the package itself.
        package: an installed one.
        force: also where pip thinks that nothing is lacking.
    """
    found = origin(package)
    names = f"[{','.join(extras)}]" if extras else ""
    options = "--force-reinstall " if force else ""
    if found.kind == "gone" and extras:
        parts = (shlex.quote(f"{one.name}{one.specifier}") for one in lacking(package, *extras))
        return " ".join(["pip install", *parts])
    if found.path is None:
        return f"pip install {options}{shlex.quote(package + names)}"
    options += "-e " if found.editable else ""
    return f"pip install {options}{shlex.quote(f'{found.path}{names}')}"


def plugin_command(package: str) -> str:
    """How to install a package of ours that depends on llm4sbr, from where llm4sbr itself came from."""
    found = origin()
    if found.kind == "folder" and found.path and (folder := found.path / PLUGINS / package).is_dir():
        return f"pip install -e {shlex.quote(str(folder))}"
    if found.kind == "wheel" and found.path:
        wheels = sorted(found.path.parent.glob(f"{package.replace('-', '_')}-*.whl"))
        if wheels:
            return f"pip install {shlex.quote(str(wheels[-1]))}"
    if found.kind == "index":
        return f"pip install {package}"
    return f"pip install ./{PLUGINS}/{package} in a copy of llm4sbr's sources"


def module_command(package: str, module: str, *, own: str) -> str:
    """How to get a module that a package imports and that is not installed.

    Args:
        package: an installed one.
        module: its name, with dots.
        own: the module of the package that imports it.
    """
    top = module.partition(".")[0]
    if package == CORE and (extra := extra_of(top)):
        return command(extra)
    again = command(package=package, force=True)
    if top == own.partition(".")[0]:
        return again
    named = [one for one in _requirements(package) if _same(one.name, top)]
    wanted = [shlex.quote(f"{one.name}{one.specifier}") for one in named[:1]]
    return f"pip install {wanted[0]}" if wanted else f"{again}, or install the package that has {top}"


def upgrade_command(package: str) -> str:
    """How to get a newer version of a package."""
    found = origin(package)
    if found.kind == "folder":
        return f"get newer sources into {found.path}, then {command(package=package)}"
    return f"pip install --upgrade {package}" if found.kind == "index" else f"install a newer {package}"


def require(extra: str) -> None:
    """`ModelUnavailableError` with the command to run if a package of an extra is not installed at all."""
    missing = [one.name for one in lacking(CORE, extra) if installed_version(one.name) is None]
    if missing:
        raise not_installed(" and ".join(missing), extra)


def not_installed(what: str, extra: str) -> ModelUnavailableError:
    """The error that says that a package of an extra is not installed, and how to install it."""
    return ModelUnavailableError(f"{what} is not installed: {command(extra)}")


def missing_module(error: ModuleNotFoundError) -> ModelUnavailableError | None:
    """The same for a module that could not be imported; None if it belongs to no extra of llm4sbr."""
    module = (error.name or "").partition(".")[0]
    extra = extra_of(module)
    return not_installed(module, extra) if extra else None


def extra_of(module: str) -> str | None:
    """The extra of llm4sbr that brings a module; None if none does."""
    every = ((extra, one.name) for extra in ADVISED for one in needed(CORE, extra))
    return next((extra for extra, name in every if _same(name, module)), None)


def lacking(package: str, *extras: str) -> dict[Requirement, str]:
    """What a package, or extras of it, require and is not there -> what is there instead."""
    found = {}
    for one in [requirement for extra in extras or ("",) for requirement in needed(package, extra)]:
        number = installed_version(one.name)
        if not number:
            found[one] = f"{one.name} is not installed"
        elif not one.specifier.contains(number, prereleases=True):
            found[one] = f"{one.name} {number} does not suit"
    return found


def needed(package: str, extra: str = "") -> list[Requirement]:
    """What a package requires, or what an extra of it requires besides."""
    found = list(_requirements(package))
    always = [one for one in found if not one.marker or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [
        one for one in found if one not in always and one.marker and one.marker.evaluate({"extra": extra})
    ]


def extras_of(package: str) -> list[str]:
    """The extras of a package."""
    try:
        return sorted(metadata(package).get_all("Provides-Extra") or [])
    except PackageNotFoundError:
        return []


def installed_version(package: str) -> str | None:
    """The version of an installed package, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _requirements(package: str) -> Iterator[Requirement]:
    from packaging.requirements import InvalidRequirement, Requirement

    with suppress(PackageNotFoundError):
        for text in requires(package) or []:
            with suppress(InvalidRequirement):  # pip will say so
                yield Requirement(text)


def _same(first: str, second: str) -> bool:
    from packaging.utils import canonicalize_name

    return canonicalize_name(first) == canonicalize_name(second)
