"""Describes the machine of a measurement, and saves results."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any


def circumstances(packages: Iterable[str]) -> dict[str, Any]:
    """Machine and versions, for the JSON file."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpus": graphics(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def processor() -> str:
    """The CPU's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def graphics() -> list[str]:
    """Names of the GPUs, as reported by the driver."""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.split(":", 1)[1].split("(")[0].strip() for line in told.stdout.splitlines()]


def keep(path: Path | None, found: Mapping[str, Any]) -> None:
    """Write the results so far, if a path is given, since a long measurement may be interrupted."""
    if path is not None:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
