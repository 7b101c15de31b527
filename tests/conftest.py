"""Fixtures that several test modules share."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# One thread each, here and in child processes: small tensors gain nothing from more, and threads that wait
# for each other on a busy machine take many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from llm4sbr import registry

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install("package", {"llms": {"name": "module:attribute"}}, module="source")`: a real distribution.

    It is a dist-info folder and modules in a folder on the path, of this process and of its children.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))

    def write(package: str, entries: dict[str, dict[str, str]], version: str = "1.0", **modules: str) -> Path:
        info = site / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = []
        for kind, names in entries.items():
            lines += [f"[llm4sbr.{kind}]", *(f"{name} = {target}" for name, target in names.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        registry._entries.cache_clear()
        return site

    yield write
    registry._entries.cache_clear()
