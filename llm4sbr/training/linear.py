"""Opens a model of a run by name: a trained one, or a linear baseline, which is fitted when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import registry, store
from llm4sbr.config.in_force import configure
from llm4sbr.data.prepared import Prepared, catalogue_hash
from llm4sbr.errors import InputError
from llm4sbr.evaluation.baselines import is_linear
from llm4sbr.fusion.item_item import ItemItem
from llm4sbr.fusion.linear import Linear
from llm4sbr.fusion.model import LLM4SBR, Recipe
from llm4sbr.fusion.saved import RECORD, SavedModel, load_model
from llm4sbr.training.trained import Trained, baselines_of, better_baseline, served

NEIGHBOURS = 128
"""Maximum number of weights kept per item, unless the baseline's own option `neighbours` is larger."""


class Opened(NamedTuple):
    """A model of a run: which one it is, and the model itself."""

    trained: Trained
    saved: SavedModel

    def fingerprint(self, prepared: Prepared) -> str:
        """Hash of the model's record, which has the hash of its weights; of what a baseline is made of."""
        if "baseline" in self.saved.facts:
            return store.fingerprint([self.saved.facts, prepared.stats])
        return store.fingerprint(store.read_json(self.trained.folder / RECORD))


def open_model(
    run: Path,
    prepared: Prepared,
    *,
    variant: str | None = None,
    seed: int | None = None,
    refitted: bool | None = None,
    baselines: bool = True,
) -> Opened:
    """The best model on validation, a linear baseline included, or the one that is named.

    Args:
        run: the run directory.
        prepared: its data.
        variant: a trained variant, or an installed baseline with `neighbours`; by default the best.
        seed: of a trained model.
        refitted: of a trained model, as for `served`; true leaves baselines out.
        baselines: whether a baseline may be chosen unasked.

    Raises:
        InputError: there is no such variant or seed, or a baseline is no linear model.
        StoreError: nothing is trained, or files are damaged.
    """
    if variant is None and seed is None and not refitted and baselines:
        variant = better_baseline(run)
    names = [path.name for path in run.glob("train/*") if path.is_dir()]
    if variant is not None and variant not in names and _installed(variant):
        if seed is not None or refitted:
            raise InputError(f"the baseline {variant!r} has no seeds and no refit; leave them out")
        options = configure(run).train.baseline_options.get(variant, {})
        known = baselines_of(run).get(variant)
        trained = Trained(variant, 0, known.valid if known else -1.0, run / "prepare")
        return Opened(trained, linear(variant, prepared, options))
    trained = served(run, variant=variant, seed=seed, refitted=refitted)
    return Opened(trained, load_model(trained.folder))


def linear(name: str, prepared: Prepared, options: Mapping[str, Any] = {}) -> SavedModel:
    """Fit a baseline with these options on the training sessions and return it as a model.

    Raises:
        InputError: the baseline is not linear.
    """
    size = prepared.catalogue.size
    baseline: Any = registry.create("baselines", name, num_items=size, **options)
    if not is_linear(baseline):
        raise InputError(
            f"the baseline {name!r} keeps no weights per item and cannot be exported; slist and item-knn can"
        )
    baseline.fit(prepared.train)
    kept = ItemItem(*baseline.neighbours(min(max(NEIGHBOURS, options.get("neighbours", 0)), size)))
    model = LLM4SBR(Linear(kept, decay=baseline.decay), None, (), 0)
    facts = {"baseline": name, "options": dict(options), "versions": registry.versions([("baselines", name)])}
    return SavedModel(model.eval(), Recipe(size, 0, name), catalogue_hash(prepared.catalogue), facts)


def _installed(name: str) -> bool:
    return any(found.name == name for found in registry.components("baselines"))
