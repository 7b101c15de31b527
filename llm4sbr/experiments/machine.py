"""Hardware of the machine that an experiment ran on, without its host name."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from llm4sbr.system import memory


def hardware() -> dict[str, Any]:
    """`cpu`, `cores`, `memory` in bytes, and `gpus` by name."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"cpu": _processor(), "cores": os.cpu_count(), "memory": memory.total(), "gpus": gpus}


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
