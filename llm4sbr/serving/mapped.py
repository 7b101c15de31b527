"""Opens safetensors files without reading them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm4sbr.errors import StoreError


def mapped_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and facts of a safetensors file; the tensors stay on disk until they are read.

    Raises:
        StoreError: it is damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:  # checks sizes and offsets
            names, facts = set(file.keys()), file.metadata() or {}
        with path.open("rb") as stream:
            start = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(start))
    except (OSError, SafetensorError, ValueError) as error:
        raise StoreError(f"{path}: not a whole safetensors file ({error}); export again") from None
    kinds = {"U8": "u1", "I32": "<i4", "I64": "<i8", "U64": "<u8", "F32": "<f4", "F64": "<f8"}
    found: dict[str, NDArray[Any]] = {}
    for name in names:
        about = header[name]
        if about["dtype"] not in kinds:
            raise StoreError(f"{path}: {name} is {about['dtype']}; export again")
        offset = 8 + start + about["data_offsets"][0]
        shape = tuple(about["shape"])
        found[name] = np.memmap(path, kinds[about["dtype"]], "r", offset, shape)
    return found, facts
