"""Which stages of a run are fresh: what each depends on, and why one is redone.

A stage is fresh if its folder's stamp names the same settings, component versions and upstream contents
as the stage would have now. Settings that cannot change a result (`NEUTRAL`) are not part of a stamp.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from llm4sbr import registry, stamps, store
from llm4sbr.config import PROTOCOLS, Config, flatten, to_settings
from llm4sbr.config.files import CONTENT, MODELS, data_files, model_content
from llm4sbr.errors import StoreError
from llm4sbr.progress import Progress

NEUTRAL = frozenset({"train.workers", "train.device", "train.compile", "infer.cache", "evaluate.batch_size"})
"""Settings that change how fast or where something is done, and what comes out in the last digits at most."""


class Stage(NamedTuple):
    """One stage: `llm4sbr.stages.<name>.<name>` writes the run's folder `<name>`."""

    name: str
    settings: tuple[str, ...]
    """Settings it reads, as dotted prefixes."""
    upstream: tuple[str, ...]
    """Stages whose folders it reads."""
    components: Callable[[Config], list[tuple[str, str]]]
    """Kind and name of the components it uses."""

    @property
    def function(self) -> Callable[[Path, Path, Config, Progress], None]:
        """The stage's function, imported now."""
        return getattr(import_module(f"llm4sbr.stages.{self.name}"), self.name)  # type: ignore[no-any-return]


def _infer_components(config: Config) -> list[tuple[str, str]]:
    asked = [("perspectives", name) for name in config.infer.perspectives]
    return [("llms", config.infer.llm), *asked, *(("llms", name) for name in config.infer.controls)]


def _train_components(config: Config) -> list[tuple[str, str]]:
    return [("backbones", config.train.backbone), ("fusers", config.train.fuser)]


STAGES = (
    Stage("prepare", ("data",), (), lambda c: [("readers", c.data.reader)]),
    Stage("infer", ("infer",), ("prepare",), _infer_components),
    Stage(
        "localize",
        ("localize",),
        ("prepare", "infer"),
        lambda c: [("encoders", c.localize.encoder), ("localizers", c.localize.localizer)],
    ),
    Stage("train", ("train", "infer.controls"), ("prepare", "localize"), _train_components),
    Stage(
        "evaluate",
        ("evaluate", "train.baselines", "protocol", *PROTOCOLS["paper"]),  # its table names the protocol
        ("prepare", "localize", "train"),
        lambda c: [("baselines", name) for name in c.train.baselines],
    ),
)
"""The pipeline, in order."""


def stamp_for(run: Path, stage: Stage, config: Config) -> stamps.Stamp:
    """The stamp that the stage would have if it ran now; its upstream stages must be finished."""
    flat = flatten(to_settings(config))
    parts = {
        key: value
        for key, value in flat.items()
        if key not in NEUTRAL and any(key == own or key.startswith(f"{own}.") for own in stage.settings)
    }
    parts |= {
        f"version of {name}": text for name, text in registry.versions(stage.components(config)).items()
    }
    for name in stage.upstream:
        upstream = stamps.read_stamp(run / name)
        if upstream is None:
            raise StoreError(f"{run}: stage {name} is not finished; run llm4sbr {name} {run}")
        parts[f"output of {name}"] = upstream.content
    if stage.name == "prepare" and (files := data_files(config)):
        parts["files of data.path"] = files
    if stage.name in MODELS:
        parts |= model_content(stage.name, config)
    wording = Path(config.infer.wording)
    if stage.name == "infer" and wording.is_file():
        parts["text of infer.wording"] = store.file_sha256(wording)
    return stamps.Stamp(stage.name, parts)


def stamp_now(run: Path, stage: Stage, config: Config) -> stamps.Stamp:
    """As `stamp_for`, but equal to the stamp of the stage's folder if nothing that counts has changed."""
    old = stamps.read_stamp(run / stage.name)
    return _without_news(_with_gone_model(stamp_for(run, stage, config), old), old)


def _without_news(stamp: stamps.Stamp, old: stamps.Stamp | None) -> stamps.Stamp:
    """The stamp without settings that did not exist when the folder was made and are at their defaults.

    A setting that a new version brings keeps at its default to what was done before, so it makes no run
    stale.
    """
    if old is None:
        return stamp
    defaults = flatten(to_settings(Config()))
    news = {key for key, value in stamp.parts.items() if key not in old.parts and defaults.get(key) == value}
    if old.parts.items() <= stamp.parts.items():  # made by a version that did not look into models
        news |= {key for key in stamp.parts.keys() - old.parts.keys() if key.startswith(CONTENT)}
    return stamp._replace(parts={key: value for key, value in stamp.parts.items() if key not in news})


def _with_gone_model(stamp: stamps.Stamp, old: stamps.Stamp | None) -> stamps.Stamp:
    """The stamp with what is known of a model's folder that is no longer here: results outlive models."""
    before = old.parts if old else {}
    gone = {
        f"{CONTENT}{name}": before[f"{CONTENT}{name}"]
        for _, name in MODELS.values()
        if f"{CONTENT}{name}" in before.keys() - stamp.parts.keys() and before[name] == stamp.parts[name]
    }
    return stamp._replace(parts=stamp.parts | gone)


def why(old: stamps.Stamp | None, new: stamps.Stamp) -> str:
    """Why a stage is done, in a few words."""
    if old is None:
        return "to do"
    different = stamps.changes(old, new)
    if not different:
        return "redone as asked"
    shown = [text if len(text) <= 90 else text[: text.index(":")] + " changed" for text in different[:3]]
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return f"redone, {'; '.join(shown)}{more}"
