"""Computes a model on a part of the catalogue, as if no other item existed.

A training step on sampled items needs few rows of the item tables: those of the items that it scores and of
those that its sessions clicked. `OnPart` puts these rows, numbered 1..C, in the place of the tables and calls
the model as it is, so that backbones, fusers and losses need not know of it, nor does their cost depend on N.

Which tensors are item tables is found out by building two small models for catalogues of different size: an
item table has one row per item. Tensors that hold items' ids have to be named (`protocols.Backbone`).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.model import LLM4SBR, Output, Recipe, build
from llm4sbr.fusion.part import Part

SIZES = (11, 13)
"""Catalogue sizes of the models that are compared."""


class ItemTables(NamedTuple):
    """Names of the tensors of an `LLM4SBR` that have a row per item, without those of its item-item model."""

    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    ids: tuple[str, ...]
    """Those of the buffers that hold catalogue ids, 0 for none; of these items rows are read, too."""


def item_tables(recipe: Recipe) -> ItemTables:
    """The item tables of the models that `build` makes.

    Raises:
        ConfigError: the backbone or the fuser cannot be computed on a part of the catalogue.
    """
    for kind, name in recipe.components():
        component = registry.load(kind, registry.split_argument(kind, name, {})[0])
        if reason := getattr(component, "lacks", {}).get("sampled"):
            raise ConfigError(f"the {kind[:-1]} {name!r} cannot be trained on sampled items: {reason}")
    with torch.random.fork_rng(devices=[]):
        small, large = (build(recipe._replace(num_items=size, neighbours=0)) for size in SIZES)
    found = _with_rows(small, large)
    padded = _with_rows(small, large, more=1) & dict(small.named_parameters()).keys()
    if padded:
        raise ConfigError(
            f"{min(padded)} has a row more than there are items, so the model cannot be trained on sampled "
            "items: a table needs a row per item, without one for padding"
        )
    buffers, ids = dict(small.named_buffers()), _named_ids(small)
    for name, buffer in buffers.items():
        whole = not (buffer.is_floating_point() or buffer.dtype == torch.bool)
        if whole and name not in ids and not _declared(small, name):
            raise ConfigError(
                f"{name} has whole numbers, which may be items' ids, so that the model cannot be trained on "
                "sampled items: its class has to name such tensors in `item_ids`, or set it to ()"
            )
    return ItemTables(
        tuple(name for name, _ in small.named_parameters() if name in found),
        tuple(name for name in buffers if name in found),
        tuple(name for name in ids if name in found),
    )


def tables_of(recipe: Recipe) -> dict[str, int]:
    """Parameters of the models that `build` makes that have a row per item: rows before the first item's."""
    with torch.random.fork_rng(devices=[]):
        small, large = (build(recipe._replace(num_items=size, neighbours=0)) for size in SIZES)
    names = [name for name, _ in small.named_parameters()]
    padded, found = _with_rows(small, large, more=1), _with_rows(small, large)
    return {name: int(name in padded) for name in names if name in found | padded}


def _with_rows(small: LLM4SBR, large: LLM4SBR, more: int = 0) -> set[str]:
    """Tensors that have a row per item in both models, and `more` rows."""
    two = large.state_dict(keep_vars=True) | dict(large.named_buffers())
    one = small.state_dict(keep_vars=True) | dict(small.named_buffers())
    sizes = {name: (tensor.shape[:1], two[name].shape[:1]) for name, tensor in one.items()}
    return {
        name for name, both in sizes.items() if both == tuple(torch.Size([size + more]) for size in SIZES)
    }


def _named_ids(model: LLM4SBR) -> tuple[str, ...]:
    """Buffers that the model's modules name in `item_ids`."""
    return tuple(
        f"{where}.{name}" if where else name
        for where, module in model.named_modules()
        for name in getattr(module, "item_ids", ())
    )


def _declared(model: LLM4SBR, name: str) -> bool:
    return hasattr(model.get_submodule(name.rpartition(".")[0]), "item_ids")


def rows_read(model: nn.Module, tables: ItemTables, items: Tensor) -> Tensor:
    """Items whose rows encoding sessions of these reads, int64 (R,), of ids int64 (M,) of clicks; with 0."""
    others = (model.get_buffer(name)[items - 1].flatten() for name in tables.ids)
    return torch.cat([items, *(one.long().to(items.device) for one in others)])


class OnPart(nn.Module):
    """`LLM4SBR.represent` on a part of the catalogue.

    Args:
        model: the model; not changed.
        tables: its item tables.
    """

    def __init__(self, model: LLM4SBR, tables: ItemTables) -> None:
        super().__init__()
        self.model, self.tables = model, tables

    def forward(
        self,
        items: Tensor,
        mask: Tensor,
        intents: Tensor | None,
        *,
        fold: Tensor | None,
        part: Part,
        rows: tuple[Tensor, ...],
    ) -> Output:
        """The output, of which C takes the place of N.

        Args:
            items: int64 (B, T), catalogue ids, all in `part`.
            mask: as for `represent`.
            intents: as for `represent`.
            fold: as for `represent`.
            part: C items.
            rows: rows (C, ...) of `tables.parameters`.
        """
        named = dict(zip(self.tables.parameters, rows, strict=True))
        for name in self.tables.buffers:
            kept = self.model.get_buffer(name)[part.ids - 1]
            named[name] = part.place[kept.long()].to(kept.dtype) if name in self.tables.ids else kept
        found = functional_call(
            _Represent(self.model),
            {f"model.{name}": tensor for name, tensor in named.items()},
            (items, mask, intents),
            {"fold": fold, "part": part},
        )
        return cast(Output, found)


class _Represent(nn.Module):
    """`functional_call` calls `forward`, and this is the one wanted."""

    def __init__(self, model: LLM4SBR) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, items: Tensor, mask: Tensor, intents: Tensor | None, *, fold: Tensor | None, part: Part
    ) -> Output:
        return self.model.represent(items, mask, intents, fold=fold, part=part)
