"""The parts of an experiment whose cells differ in more than one setting: ablations, and related systems."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm4sbr import registry
from llm4sbr.config import Settings, flatten
from llm4sbr.evaluation.systems import SYSTEMS, WHOLE, WITHOUT
from llm4sbr.system import installation

BASELINES = ["popularity", "s-pop", "item-knn", "vmis-knn"]

ALONE: dict[str, Any] = {"train.baselines": [], "train.text_init": False}
"""Settings of cells beside the first one, which has the rows that all of them would share."""


class Component(NamedTuple):
    """A component that makes the method another system."""

    kind: str
    setting: str
    name: str


TRAINED = {
    "CTRL": Component("fusers", "train.fuser", "ctrl"),
    "SPRINT": Component("localizers", "localize.localizer", "validated-pool"),
}
"""Systems that are a trained model of their own; each has a cell."""


class Part(NamedTuple):
    """A name, and what a cell of that name changes."""

    name: str
    perspectives: tuple[str, ...]
    settings: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    """What is not in its table, and why."""


def ablations(perspectives: tuple[str, ...], chosen: Settings) -> list[Part]:
    """The method without one of its parts, the whole method first (Figure 4, and parts of our own)."""
    several = perspectives if len(perspectives) > 1 else ()
    return [
        Part("whole", perspectives),
        *(Part(f"without {one}", tuple(p for p in perspectives if p != one)) for one in several),
        *([Part("normal only", ("normal",))] if perspectives != ("normal",) else []),
        Part("without alignment", perspectives, {"train.tau": 0.0}),
    ]


def related(perspectives: tuple[str, ...], chosen: Settings) -> list[Part]:
    """The paper's method with all rows that need no model of their own, then each other trained system.

    Args:
        perspectives: those of the method.
        chosen: the user's settings; baselines that somebody named are not added to.
    """
    flat = flatten(chosen)
    texts = flat.get("infer.llm") != "none"
    asked = sorted({one.row for one in SYSTEMS if one.against == WITHOUT}, key=_place)
    wanted = [*BASELINES, "slist", *(["llmseqsim", "llm-infer"] if texts else [])]
    notes = []
    if "train.baselines" in flat:
        first: dict[str, Any] = {}
    elif flat.get("evaluate.llm", "none") == "none":
        notes.append(f"Nobody is asked, so {', '.join(asked)} are left out: --set evaluate.llm=NAME.")
        first = {"train.baselines": wanted}
    else:
        there = {one.name for one in registry.components("baselines")}
        if missing := [name for name in asked if name not in there]:
            command = installation.plugin_command("llm4sbr-related")
            notes.append(f"Not installed: {', '.join(missing)} ({command}).")
        first = {"train.baselines": [*wanted, *(name for name in asked if name in there)]}
    if "train.text_init" not in flat:
        first["train.text_init"] = texts
    trained = {(kind, one.name) for kind in ("fusers", "localizers") for one in registry.components(kind)}
    others = [
        Part(name, perspectives, ALONE | {component.setting: component.name})
        for name, component in TRAINED.items()
        if texts and (component.kind, component.name) in trained
    ]
    return [Part(WHOLE, perspectives, first, tuple(notes)), *others]


def _place(row: str) -> int:
    return [one.row for one in SYSTEMS].index(row)
