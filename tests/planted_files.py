"""Readers and exporters, each with one fault: scaffolded components, changed.

Imported by test_planted_faults, which writes the scaffolded modules `my_*` first.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import polars as pl
import torch
from my_reader import MyReader
from safetensors.torch import load_file, save_file

from llm4sbr.errors import InputError
from llm4sbr.testing.exporters import toy_model

# Readers


class NoRead(MyReader):
    read = None


class NumbersAsKeys(MyReader):
    def read(self):
        found = super().read()
        items = found.interactions.with_columns(pl.col("item").str.slice(1).cast(pl.Int64))
        return found._replace(interactions=items)


class InventsItems(MyReader):
    def read(self):
        found = super().read()
        more = pl.DataFrame({"item": ["i99"], "title": ["A Thing That Nobody Sells"]})
        return found._replace(items=found.items.vstack(more))


class LosesTheLastRow(MyReader):
    def read(self):
        found = super().read()
        return found._replace(interactions=found.interactions.head(-1))


class TimesAsText(MyReader):
    def read(self):
        found = super().read()
        backwards = found.interactions.with_columns(time=-pl.col("time"))
        return found._replace(interactions=backwards)


class AnyOrder(MyReader):
    def read(self):
        found = super().read()
        return found._replace(interactions=found.interactions.sample(fraction=1, shuffle=True))


class OneUser(MyReader):
    def read(self):
        found = super().read()
        clicks = found.interactions.with_columns(user=pl.lit("u"), time=pl.col("row").cast(pl.Float64))
        return found._replace(interactions=clicks)


class OpensAtOnce(MyReader):
    def __init__(self, path):
        super().__init__(path)
        (path / "clicks.tsv").read_text()


class SilentOnEmpty(MyReader):
    def _rows(self, name, fields):
        lines = (self.path / name).read_text().splitlines()
        cells = [(number, line.split("\t")) for number, line in enumerate(lines, start=1)]
        return [(number, row) for number, row in cells if len(row) == len(fields)]


# Exporters


class Whole:
    """An exporter that keeps the contract without any format's help."""

    suffix = ".safetensors"
    precisions = ("fp32",)

    def export(self, model, example, path, *, spec):
        if spec.k > model.backbone.item_embeddings().shape[0]:
            raise InputError(f"k = {spec.k}: larger than the catalogue")
        model(example["items"], example["mask"])
        state = {name: value.clone() for name, value in model.state_dict().items()}
        save_file(state, path, metadata={"variant": spec.intent_mode, "k": str(spec.k)})

    def load(self, path):
        return Answers(load_file(path))


class Answers:
    provider = "cpu"
    first = 1

    def __init__(self, state):
        fused = any(name.startswith("fuser.") for name in state)
        self.model = toy_model(fuser="gated" if fused else None)
        self.model.load_state_dict(state)

    def score(self, items, mask, exclude_seen, intents=None):
        scores = self.model(items, mask, intents)
        seen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, items.clamp_min(1) - 1, mask)
        scores = scores.masked_fill(self.left_out(seen, exclude_seen), -torch.inf)
        best = scores.topk(5)
        return best.indices + self.first, best.values

    def left_out(self, seen, wanted):
        return seen & wanted


class NoPrecision(Whole):
    precisions = ()


class RowsNotIds(Whole):
    def load(self, path):
        found = Answers(load_file(path))
        found.first = 0
        return found


class IgnoresTheFlag(Whole):
    def load(self, path):
        found = Answers(load_file(path))
        found.left_out = lambda seen, wanted: seen
        return found


class AnyK(Whole):
    def export(self, model, example, path, *, spec):
        super().export(model, example, path, spec=spec._replace(k=1))


class StaysWhereItWas(Whole):
    """Leaves a path in the file instead of the weights."""

    def export(self, model, example, path, *, spec):
        super().export(model, example, path.with_suffix(".weights"), spec=spec)
        path.write_text(str(path.with_suffix(".weights")))

    def load(self, path):
        return Answers(load_file(Path(path.read_text())))


class HalfWritten(Whole):
    def export(self, model, example, path, *, spec):
        if spec.k <= 5:
            path.write_bytes(uuid.uuid4().bytes)
        super().export(model, example, path, spec=spec)
