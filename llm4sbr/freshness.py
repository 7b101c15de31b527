"""Decides which stages and parts of a run are fresh, and why one has to be redone.

A stage is fresh if its stamp has the settings, component versions and upstream contents that it would have
now, and its files are unchanged. Settings that cannot change a result (`NEUTRAL`) are not part of a stamp.

Stages have parts: `infer` and `localize` one per source of answers (the LLM, each control), `train` one per
model, `evaluate` one per baseline. A part's stamp has only what its own result depends on, not which other
parts there are, so that adding a control or a seed does not redo the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr import registry, stamps, store
from llm4sbr.config import PROTOCOLS, Config, flatten, to_settings
from llm4sbr.config.files import CONTENT, MODELS, data_files, model_content
from llm4sbr.progress import Progress

NEUTRAL = frozenset({"train.workers", "train.device", "train.compile", "infer.cache", "evaluate.batch_size"})
"""Settings that affect speed or place, and results at most in the last digits."""

LLM, PLAIN, NONE = "llm", "plain", "none"
"""Names of parts: the LLM's; the model without intents; the model trained without any intent."""
ITEM_ITEM, TEXT_INIT = "item-item", "text-init"
ALONE = (PLAIN, ITEM_ITEM, TEXT_INIT)
"""The backbone without intents, the same with an item-item model's scores added, and the same with item
embeddings that start as text vectors."""

FORMER = {"train": ("train.baselines",)}
"""Stage -> settings in older stamps that never affected a result."""

BASELINES = ("train.baselines", "train.baseline_options")
"""Settings that only `evaluate` reads."""
WHICH_MODELS = (
    *("train.seeds", "train.seed", "train.plain", "train.text_init"),
    *BASELINES,
    "infer.controls",
)
"""Settings that decide which models and baselines there are, not what a model learns."""
FUSION = ("train.fuser", "train.fuser_options", "train.tau", "train.intent_dropout", "version of fusers/")
"""What only models with intents depend on."""
START = "start/start.json"
"""The record of what a run's models start from, see `training.start`; the folder is the run's."""
WARM = ("train.warm_epochs", "train.replay")
"""What only models that start from older ones depend on."""
LINEAR = ("train.neighbours", "train.counted")
"""What all models but `plain` and `text-init` depend on."""
BRIEF = (*WARM, "train.epochs", "train.patience", *LINEAR, *WHICH_MODELS, *FUSION)
"""What the backbone for `infer.select = "uncertain"` does not depend on."""
LLM_VERSION = "version of llms/"
ASKED = ("infer.llm", "infer.options", "infer.budget", "infer.select", "content of infer.llm", "train.")
"""Entries in the stamp of `infer` that only concern the LLM."""


Parts = dict[str, Any]
"""Entries of a stamp."""


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
    def function(self) -> Callable[[Path, Path, Config, Progress, stamps.Attempt], None]:
        """The stage's function, imported on first use."""
        return getattr(import_module(f"llm4sbr.stages.{self.name}"), self.name)  # type: ignore[no-any-return]


def _infer_components(config: Config) -> list[tuple[str, str]]:
    asked = [("perspectives", name) for name in config.infer.perspectives]
    return [("llms", config.infer.llm), *asked, *(("llms", name) for name in config.infer.controls)]


def _train_components(config: Config) -> list[tuple[str, str]]:
    return [("backbones", config.train.backbone), ("fusers", config.train.fuser)]


def _evaluate_components(config: Config) -> list[tuple[str, str]]:
    asked = [("llms", config.evaluate.llm)] if config.evaluate.llm != NONE else []
    return [*(("baselines", name) for name in config.train.baselines), *asked]


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
        ("evaluate", *BASELINES, "protocol", *PROTOCOLS["paper"]),  # its table names the protocol
        ("prepare", "localize", "train"),
        _evaluate_components,
    ),
)
"""The pipeline, in order."""

PREPARE, INFER, LOCALIZE, TRAIN, EVALUATE = STAGES


def stamp_for(run: Path, stage: Stage, config: Config) -> stamps.Stamp:
    """The stamp that the stage would have if it ran now; the stages before it should be finished."""
    flat = flatten(to_settings(config))
    parts = {
        key: value
        for key, value in flat.items()
        if key not in NEUTRAL and any(key == own or key.startswith(f"{own}.") for own in stage.settings)
    }
    if stage.name == "train":
        parts = {key: value for key, value in parts.items() if not key.startswith(BASELINES)}
    if stage.name == "infer" and config.infer.select == "uncertain":
        train = {key: value for key, value in flat.items() if key.startswith("train.")}
        parts |= {k: v for k, v in train.items() if k not in NEUTRAL and not k.startswith(BRIEF)}
    parts |= {
        f"version of {name}": text for name, text in registry.versions(stage.components(config)).items()
    }
    for name in stage.upstream:
        upstream = stamps.read_stamp(run / name)
        parts[f"output of {name}"] = upstream.content if upstream else ""
    if stage.name == "prepare" and (files := data_files(config)):
        parts["files of data.path"] = files
    if stage.name in MODELS:
        parts |= model_content(stage.name, config)
    if stage.name == "train" and (run / START).exists():
        parts["start"] = store.read_record(run / START)["fingerprint"]
    wording = Path(config.infer.wording)
    if stage.name == "infer" and wording.is_file():
        parts["text of infer.wording"] = store.file_sha256(wording)
    return stamps.Stamp(stage.name, parts)


def stamp_now(run: Path, stage: Stage, config: Config) -> stamps.Stamp:
    """As `stamp_for`, but equal to the stage's existing stamp if nothing relevant has changed."""
    return _settled(stamp_for(run, stage, config), stamps.read_stamp(run / stage.name))


def asked(stage: str, config: Config) -> list[str]:
    """The parts that the settings ask for, as names of folders, in the order of the tables."""
    sources = [LLM, *(name for name in config.infer.controls if name not in (config.infer.llm, NONE))]
    sources = sources if config.infer.llm != NONE else []
    if stage in ("infer", "localize"):
        return sources
    if stage == "evaluate":
        return [baseline_part(name) for name in config.train.baselines]
    if stage != "train":
        return []
    seeds = range(config.train.seed, config.train.seed + config.train.seeds)
    return [f"{variant}/seed-{seed}" for seed in seeds for variant in variants(config, sources)]


def baseline_part(name: str) -> str:
    """The part of `evaluate` with a baseline's ranks."""
    return f"baselines/{name}"


def variants(config: Config, sources: Sequence[str]) -> list[str]:
    """The variants trained per seed, in the order of the table: `ALONE`, one per source, `none`."""
    alone = [PLAIN, *([ITEM_ITEM] if config.train.neighbours or config.train.counted else [])]
    alone += [TEXT_INIT] if config.train.text_init else []
    plain = alone if config.train.plain or not sources else []
    unseen = [NONE] if sources and NONE in config.infer.controls else []
    return [*plain, *sources, *unseen]


def part_stamp(run: Path, part: str, attempt: stamps.Attempt) -> stamps.Stamp:
    """What a part depends on, equal to its existing stamp if nothing relevant has changed.

    Args:
        run: has the stages before.
        part: its folder in the stage's.
        attempt: has the stamp of the stage, and the parts that are there.
    """
    stage = attempt.stamp
    decisive = {"infer": _answers, "localize": _intents, "train": _model, "evaluate": _baseline}[stage.stage]
    stamp = stamps.Stamp(f"{stage.stage}/{part}", decisive(run, part, stage.parts, attempt.out))
    return _settled(stamp, attempt.old(part))


def adopt_models(run: Path) -> None:
    """Give models of an older version stamps, if their settings are known."""
    out = run / TRAIN.name
    stage = stamps.read_stamp(out)
    if stage is None or stage.files is not None:
        return
    before = {f"output of {name}": stamps.read_stamp(run / name) for name in TRAIN.upstream}
    if any(one is None or stage.parts.get(key) != one.content for key, one in before.items()):
        return
    for record in out.glob("*/seed-*/model.json"):
        files, content = stamps.files_of(record.parent)
        part = record.parent.relative_to(out).as_posix()
        stamp = part_stamp(run, part, stamps.Attempt(out, stage))
        stamps.write_stamp(record.parent, stamp._replace(content=content, files=files))


def _answers(run: Path, part: str, stage: Parts, out: Path) -> Parts:
    """What a source of answers depends on. A control covers the samples that the LLM answered."""
    kept = {key: value for key, value in stage.items() if key != "infer.controls"}
    controls = {f"version of llms/{name.rpartition(':')[2]}" for name in stage.get("infer.controls", ())}
    if part == LLM:
        own = f"version of llms/{stage.get('infer.llm', '').partition(':')[0]}"
        return {key: value for key, value in kept.items() if key not in controls - {own}}
    own = f"version of llms/{part.rpartition(':')[2]}"
    others = (*ASKED, *(key for key in kept if key.startswith("version of llms/") and key != own))
    kept = {key: value for key, value in kept.items() if not key.startswith(others)}
    return kept | {"answers of llm": _content(out / LLM)}


def _intents(run: Path, part: str, stage: Parts, out: Path) -> Parts:
    kept = {key: value for key, value in stage.items() if key != "output of infer"}
    return kept | {"answers": _content(run / "infer" / part)}


def _model(run: Path, part: str, stage: Parts, out: Path) -> Parts:
    """What the weights of a model depend on; its seed is in its name.

    A plain backbone does not depend on intents, so that one training serves every f and every part of an
    ablation. A fused model that never sees an intent depends on their shape only.
    """
    variant = part.partition("/")[0]
    ignored = (*WHICH_MODELS, "output of localize", "start", *(FUSION if variant in ALONE else ()))
    kept = {key: value for key, value in stage.items() if not key.startswith(ignored)}
    if start := _start(run, part):
        kept |= {"start": start}
    else:
        kept = {key: value for key, value in kept.items() if key not in WARM}
    if variant in (PLAIN, TEXT_INIT):
        kept = {key: value for key, value in kept.items() if key not in LINEAR}
    if variant in (PLAIN, ITEM_ITEM):
        return kept
    kept["items"] = _items(run / "localize")
    if variant == TEXT_INIT:
        return kept
    if variant == NONE:
        return kept | {"shape of intents": _shape(run / "localize")}
    return kept | {"intents": _content(run / "localize" / variant)}


def _start(run: Path, part: str) -> str | None:
    """Hash of what a model starts from; None if it starts anew."""
    record = store.read_record(run / START) if (run / START).exists() else {"models": {}}
    own = record["models"].get(part)
    return store.fingerprint([own, record["items"]]) if own else None


def _baseline(run: Path, part: str, stage: Parts, out: Path) -> Parts:
    """What a baseline's ranks depend on: data, its own options, and texts if it ranks by these."""
    name = part.partition("/")[2]
    own = ("output of prepare", f"version of baselines/{name.rpartition(':')[2]}")
    options = f"train.baseline_options.{name}."
    found = {key: value for key, value in stage.items() if key in own or key.startswith(options)}
    component = registry.load("baselines", name)
    if getattr(component, "needs_text", False):
        found["items"] = _items(run / "localize")
    if getattr(component, "needs_answers", False):
        found["intents"] = _content(run / "localize" / LLM)
    if getattr(component, "asks", False):
        asking = (
            "evaluate.llm",
            f"{CONTENT}evaluate.llm",
            "evaluate.samples",
            "evaluate.budget",
            LLM_VERSION,
        )
        found |= {key: value for key, value in stage.items() if key.startswith(asking)}
    return found


def _content(folder: Path) -> str:
    """Hash of a part's content, which older versions did not record."""
    stamp = stamps.read_stamp(folder)
    return stamp.content if stamp else stamps.files_of(folder)[1]


def _items(localize: Path) -> str:
    """Hash of the items' vectors."""
    summary = localize / "localize.json"
    files = store.read_json(summary).get("files", {}) if summary.exists() else {}
    return str(next(iter(files.values()), ""))


def _shape(localize: Path) -> list[Any]:
    """What the intents of all sources have in common: perspectives and vector size."""
    for path in sorted(localize.glob("*/manifest.json")):
        manifest = store.read_json(path)
        return [manifest.get("perspectives"), manifest.get("dim")]
    return []


def _without_news(stamp: stamps.Stamp, old: stamps.Stamp | None) -> stamps.Stamp:
    """The stamp without settings that did not exist when the folder was made and have their default value.

    A setting that a new version brings keeps at its default to what was done before, so it makes no run
    stale.
    """
    if old is None:
        return stamp
    defaults = flatten(to_settings(Config()))
    news = {key for key, value in stamp.parts.items() if key not in old.parts and defaults.get(key) == value}
    if old.parts.items() <= stamp.parts.items():  # by a version that did not hash model folders
        news |= {key for key in stamp.parts.keys() - old.parts.keys() if key.startswith(CONTENT)}
    return stamp._replace(parts={key: value for key, value in stamp.parts.items() if key not in news})


def _with_gone_model(stamp: stamps.Stamp, old: stamps.Stamp | None) -> stamps.Stamp:
    """The stamp with the old hash of a model folder that has been deleted, since its results stay valid."""
    before = old.parts if old else {}
    gone = {
        f"{CONTENT}{name}": before[f"{CONTENT}{name}"]
        for _, name in MODELS.values()
        if f"{CONTENT}{name}" in before.keys() - stamp.parts.keys() and before[name] == stamp.parts[name]
    }
    return stamp._replace(parts=stamp.parts | gone)


def _settled(stamp: stamps.Stamp, old: stamps.Stamp | None) -> stamps.Stamp:
    if old:
        former = {key: old.parts[key] for key in FORMER.get(stamp.stage, ()) if key in old.parts}
        stamp = stamp._replace(parts=stamp.parts | former)
    return _without_news(_with_gone_model(stamp, old), old)


def why(old: stamps.Stamp | None, new: stamps.Stamp, lost: str | None = None) -> str:
    """Why a stage has to run, in a few words."""
    if old is None:
        return "to do"
    different = stamps.changes(old, new)
    if not different:
        return f"redone, {lost}" if lost else "redone as asked"
    shown = [text if len(text) <= 90 else text[: text.index(":")] + " changed" for text in different[:3]]
    more = f" and {len(different) - 3} more" if len(different) > 3 else ""
    return f"redone, {'; '.join(shown)}{more}"
