"""Numbers of which there are as many as clicks: mapped from disk, so that memory does not grow with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mapped(parts: Iterable[NDArray[Any]]) -> Tensor:
    """int64 (total,): the parts one after the other, in a file without a name that goes with the tensor.

    Args:
        parts: whole numbers; taken one by one.
    """
    with tempfile.TemporaryFile() as file:
        size = 0
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=np.int64).tobytes())
            size += len(part)
        file.flush()
        if not size:
            return torch.zeros(0, dtype=torch.int64)
        return torch.from_numpy(np.memmap(file, np.int64, "r+", shape=(size,)))
