"""Checks an installation and says how to repair it, without changing anything."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llm4sbr import registry, store
from llm4sbr.registry import CORE, Component
from llm4sbr.system import installation, memory
from llm4sbr.system.installation import command, installed_version

Level = Literal["ok", "warn", "error"]

GIGABYTE = 10**9
LITTLE_DISK = 5 * GIGABYTE
"""Free space for the cache folder, which stores models and answers, below which there is a warning."""

TIMEOUT = 60.0
"""Maximum seconds for importing a component's module."""

TENSORRT = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13")


class Finding(NamedTuple):
    """The result of one check."""

    level: Level
    subject: str
    """What was checked, such as `torch` or `llms/embedded`."""
    what: str
    """What was found."""
    mend: str = ""
    """How to repair it; "" if there is nothing to repair."""
    facts: dict[str, Any] = {}
    """What was found as values for JSON, with more detail than `what`."""


class Diagnosis(NamedTuple):
    """The results of all checks, in their order."""

    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return all(finding.level != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as values for JSON."""
        return {"healthy": self.healthy, "findings": [finding._asdict() for finding in self.findings]}


def diagnose() -> Diagnosis:
    """Check the machine, the packages, the cache folder and the plugins of other packages."""
    parts = (_machine(), _torch(), _dependencies(), *_devices(), _cache(), _components())
    return Diagnosis([finding for part in parts for finding in part])


def diagnose_plugins() -> Diagnosis:
    """Check all components, including our own: what they need from the machine, and whether they load."""
    found = registry.components()
    parts = (_torch(), *_devices(), _misdeclared(), _clashes(found), check_plugins(found).findings)
    return Diagnosis([finding for part in parts for finding in part])


def check_plugins(found: Sequence[Component] | None = None, *, timeout: float = TIMEOUT) -> Diagnosis:
    """Import components, each module in its own process.

    A module that raises, hangs, prints or crashes therefore affects no other check.

    Args:
        found: the components; by default all that are installed.
        timeout: seconds after which importing a module counts as failed.
    """
    every = registry.components() if found is None else found
    modules = [list(group) for _, group in groupby(sorted(every, key=_module), key=_module)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        checked = pool.map(lambda group: _check_module(group, timeout), modules)
    by_component = {component: finding for part in checked for component, finding in part.items()}
    return Diagnosis([by_component[component] for component in every])


def _devices() -> tuple[Iterator[Finding], ...]:
    packages = {component.package for component in registry.components()}
    return _onnxruntime(), _tensorrt(), _plugin_requirements(packages - {CORE}), _extras(packages)


def _machine() -> Iterator[Finding]:
    text = f"Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores"
    total = memory.total()
    yield Finding("ok", "machine", f"{text}, {total / GIGABYTE:.1f} GB memory" if total else text)


def _light() -> bool:
    """Whether only what queries and serves exported models is installed, without what trains them."""
    return installed_version("torch") is None


def _torch() -> Iterator[Finding]:
    if _light():
        text = f"not installed; exported models can be queried and served, all else needs {command('train')}"
        yield Finding("ok", "torch", text)
        return
    try:
        import torch
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        yield Finding("error", "torch", reason, "pip install --force-reinstall torch")
        return
    number = torch.__version__
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        text = f"{number}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} x {properties.name}"
        yield Finding("ok", "torch", f"{text}, {properties.total_memory / GIGABYTE:.1f} GB each")
    elif torch.version.cuda:
        mend = "update the NVIDIA driver; if there is no GPU, nothing needs to be done"
        yield Finding("warn", "torch", f"{number}, built for CUDA {torch.version.cuda}, finds no GPU", mend)
    elif shutil.which("nvidia-smi"):
        mend = f"install a CUDA build of torch {number.partition('+')[0]}"
        yield Finding("warn", "torch", f"{number}, built for CPUs, on a machine with an NVIDIA driver", mend)
    else:
        yield Finding("ok", "torch", f"{number}, CPU")


def _dependencies() -> Iterator[Finding]:
    parts = ("",) if _light() else ("", "train")
    lacking = installation.lacking(CORE, *parts)
    for needed, what in lacking.items():
        yield Finding("error", "packages", what, f'pip install "{needed.name}{needed.specifier}"')
    every = [one for part in parts for one in installation.needed(CORE, part) if one not in lacking]
    installed = [f"{one.name} {installed_version(one.name)}" for one in every]
    yield Finding("ok", "packages", f"{CORE} {registry.core_version()} with {', '.join(installed)}")


def _plugin_requirements(packages: Iterable[str]) -> Iterator[Finding]:
    for package in sorted(packages):
        for needed, what in installation.lacking(package).items():
            mend = f'pip install "{needed.name}{needed.specifier}"'
            yield Finding("warn", package, f"{what}, which it needs", mend)


def _extras(packages: Iterable[str]) -> Iterator[Finding]:
    """The extras of our package and of plugins, and what is missing for each."""
    for package in sorted(packages, key=lambda name: (name != CORE, name)):
        offered = installation.extras_of(package)
        extras = {extra: list(installation.lacking(package, extra).values()) for extra in offered}
        if extras:
            there = ", ".join(extra for extra, lacking in extras.items() if not lacking) or "none"
            missing = [f"{extra} ({', '.join(lacking)})" for extra, lacking in extras.items() if lacking]
            text = f"{there} complete" + (f"; incomplete: {', '.join(missing)}" if missing else "")
            mend = f"{command('EXTRA', package=package)}, if you need one" if missing else ""
            yield Finding("ok", f"{package} extras", text, mend, extras)


def _onnxruntime() -> Iterator[Finding]:
    found = _installed("onnxruntime", "onnxruntime-gpu")
    if len(found) == 2:
        yield Finding(
            "error",
            "onnxruntime",
            f"{' and '.join(found)} overwrite each other's files",
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one you want",
        )
    else:
        yield Finding("ok", "onnxruntime", found[0] if found else "not installed")


def _tensorrt() -> Iterator[Finding]:
    yield Finding("ok", "tensorrt", ", ".join(_installed(*TENSORRT)) or "not installed")


def _cache() -> Iterator[Finding]:
    folder = store.cache_dir()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {_size(folder) / GIGABYTE:.2f} GB used, {free / GIGABYTE:.1f} GB free"
    elsewhere = "set LLM4SBR_CACHE to a folder elsewhere"
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Finding("error", "cache", f"{folder} cannot be written", elsewhere)
    elif free < LITTLE_DISK:
        yield Finding("warn", "cache", text, f"free some space, or {elsewhere}")
    else:
        yield Finding("ok", "cache", text)


def _components() -> Iterator[Finding]:
    found = registry.components()
    counts = Counter(component.kind for component in found)
    yield Finding("ok", "components", ", ".join(f"{kind} {count}" for kind, count in counts.items()))
    yield from _misdeclared()
    yield from _clashes(found)
    # Our own components need nothing but the packages checked above.
    yield from check_plugins([component for component in found if component.package != CORE]).findings


def _misdeclared() -> Iterator[Finding]:
    for package, what in registry.misdeclared().items():
        level: Level = (
            "error" if "cannot be read" in what else "warn"
        )  # unreadable metadata also breaks other libraries
        yield Finding(level, package, what, f"correct it, or pip uninstall {package}")


def _clashes(found: Sequence[Component]) -> Iterator[Finding]:
    for (kind, name), number in Counter((c.kind, c.name) for c in found).items():
        if number > 1:
            choices = " or ".join(f"{c.package}:{name}" for c in found if (c.kind, c.name) == (kind, name))
            yield Finding("warn", f"{kind}/{name}", "offered by several packages", f"ask for {choices}")


_CHILD = """
import json, os, sys, time
result = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what a plugin prints must not mix with the result
from llm4sbr import registry
from llm4sbr.errors import RegistryError
for kind, name in json.loads(sys.argv[1]):
    started, error, api, lacks = time.perf_counter(), "", None, []
    try:
        component = registry.load(kind, name)
        api, lacks = getattr(component, "plugin_api", None), sorted(getattr(component, "lacks", ()))
    except RegistryError as found:
        error = str(found)
    api = api if isinstance(api, int) else None
    print(json.dumps([time.perf_counter() - started, error, api, lacks]), file=result, flush=True)
os._exit(0)  # do not wait for threads that a plugin may have started
"""


def _module(component: Component) -> tuple[str, str]:
    return component.package, component.module


def _check_module(group: Sequence[Component], timeout: float) -> dict[Component, Finding]:
    names = [(c.kind, f"{c.package}:{c.name}") for c in group]
    lines, reason = _run([sys.executable, "-P", "-c", _CHILD, json.dumps(names)], timeout)
    missing = (None, f"cannot be imported: {reason}")
    results = [*map(json.loads, lines), *[missing] * (len(group) - len(lines))]
    return {c: _finding(c, *result) for c, result in zip(group, results, strict=True)}


def _run(arguments: list[str], timeout: float) -> tuple[list[str], str]:
    """Run a child process; its output's lines, and how it ended if it did not finish its work."""
    with subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # so that its own child processes can be killed too
    ) as child:
        try:
            output, _ = child.communicate(timeout=timeout)
            reason = f"its process ended with code {child.returncode}"
        except subprocess.TimeoutExpired:
            if os.name == "posix":
                os.killpg(child.pid, signal.SIGKILL)
            child.kill()
            output, _ = child.communicate()
            reason = f"not done after {timeout:g} s"
    return output.splitlines(), reason


def _finding(
    component: Component,
    seconds: float | None,
    error: str,
    api: int | None = None,
    lacks: Sequence[str] = (),
) -> Finding:
    facts = {
        "package": component.package,
        "version": component.version,
        "origin": component.target,
        "plugin_api": api,
        "lacks": list(lacks),
        "seconds": None if seconds is None else round(seconds, 3),
    }
    subject = f"{component.kind}/{component.name}"
    origin = f"{component.package} {component.version}, {component.target}"
    if not error:
        says = [f"API {api}"] if api is not None else []
        says += [f"lacks {', '.join(lacks)}"] if lacks else []
        return Finding("ok", subject, ", ".join([origin, *says, f"{seconds:.1f} s"]), "", facts)
    mend = f"{command(package=component.package, force=True)}, or pip uninstall {component.package}"
    text = error if component.package in error else f"{origin} {error}"
    return Finding("error", subject, text, "" if "pip install" in error else mend, facts)


def _installed(*packages: str) -> list[str]:
    found = ((package, installed_version(package)) for package in packages)
    return [f"{package} {number}" for package, number in found if number]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
