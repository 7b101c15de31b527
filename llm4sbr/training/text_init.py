"""Item embeddings that start as text vectors, reduced to D by PCA (LLM2BERT4Rec, Harte et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.errors import ConfigError

FLAT = 1e-9
"""Axes whose variance is less than this share of the largest are not used."""


def start_from_text(backbone: object, vectors: Tensor, *, name: str) -> None:
    """Overwrite a backbone's initial item embeddings with the principal components of text vectors.

    The components are scaled by one factor, to the root mean square of the values that they replace, so that
    training starts with values of the usual size. If there are fewer components than columns, the other
    columns keep their random values.

    Args:
        backbone: a backbone with a parameter `items`, float (N, D).
        vectors: float (N, E), in catalogue order.
        name: the backbone's installed name, for the error message.

    Raises:
        ConfigError: the backbone has no such parameter.
    """
    table = getattr(backbone, "items", None)
    if not isinstance(table, nn.Parameter) or table.ndim != 2 or len(table) != len(vectors):
        raise ConfigError(
            f"train.text_init: the backbone {name!r} has no parameter `items` (N, D) that could start as "
            "text vectors; choose another, such as sr-gnn"
        )
    with torch.no_grad():
        found = components(vectors, table.shape[1])
        count = found.shape[1]
        if count:
            size = table[:, :count].double().square().mean().sqrt()
            table[:, :count] = found * size / found.square().mean().sqrt()


def components(vectors: Tensor, most: int) -> Tensor:
    """The first principal components of float (N, E), float64 (N, C), C <= `most`.

    The sign of each axis is that of its largest loading, so that it does not depend on the machine.
    """
    centred = vectors.double() - vectors.double().mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    used = int((variances > FLAT * variances[-1].clamp_min(0)).sum()) if variances[-1] > 0 else 0
    axes = axes.flip(1)[:, : min(most, used)]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    found: Tensor = centred @ (axes * largest.sign())
    return found
