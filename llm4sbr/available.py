"""Looks at what later stages need, before hours of asking and training: devices, encoders, LLMs of rows."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from llm4sbr import registry, stamps
from llm4sbr.config import Config, Settings, flatten
from llm4sbr.errors import ConfigError, Llm4sbrError
from llm4sbr.progress import Progress
from llm4sbr.stamps import STAGE_NAMES

ENCODER = "localize.encoder"
OF_TEXTS = {"needs_text": "text vectors of the items", "needs_answers": "answers"}
"""Attribute of a baseline -> what it needs of the stages `infer` and `localize`."""


def reaches(until: str, stage: str) -> bool:
    """Whether a command that runs up to `until` runs `stage`."""
    return STAGE_NAMES.index(until) >= STAGE_NAMES.index(stage)


def check(config: Config, until: str) -> None:
    """Refuse a device or a text encoder that is not here, as far as stages up to `until` need them.

    Raises:
        ConfigError: this machine has no such device.
        ModelUnavailableError: the encoder's files cannot be had here.
    """
    if reaches(until, "train"):
        from llm4sbr.system.devices import device

        device(config.train.device, "train.device")
    if reaches(until, "localize"):
        encoder = registry.create("encoders", config.localize.encoder, **config.localize.encoder_options)
        getattr(encoder, "dim", None)  # reads the model's configuration, no weights


def check_baselines(config: Config) -> None:
    """Refuse baselines that need an LLM, its answers or texts, where the settings name no source of them.

    Raises:
        ConfigError: names the baseline and the setting.
        RegistryError: there is no such baseline or LLM.
    """
    for name in config.train.baselines:
        baseline = registry.load("baselines", name)
        what = next((text for need, text in OF_TEXTS.items() if getattr(baseline, need, False)), None)
        if what and config.infer.llm == "none":
            raise ConfigError(
                f"train.baselines: {name} needs {what}, and with infer.llm = none there are none; choose "
                "infer.llm (item-text asks nobody), or leave it out"
            )
        if getattr(baseline, "asks", False) and _answers_itself(config.evaluate.llm):
            raise ConfigError(
                f"train.baselines: {name} asks an LLM, and evaluate.llm = {config.evaluate.llm} is none; "
                "choose one with --set evaluate.llm=NAME (llm4sbr plugins list llms)"
            )


def _answers_itself(llm: str) -> bool:
    """Whether a component of kind `llms` is a control, which answers without an LLM."""
    name, _ = registry.split_argument("llms", llm, {})
    return callable(getattr(registry.load("llms", name), "answer", None))


def encoder_instead(run: Path, chosen: Settings, config: Config, until: str, progress: Progress) -> Settings:
    """The choice of an encoder that is here, if nobody chose one and the default cannot be had; else empty.

    Args:
        run: the run directory; one that has intents keeps the encoder that made them.
        chosen: what somebody chose.
        config: all settings in use.
        until: the last stage of the command.
        progress: is told what is taken, and why.
    """
    default = Config().localize.encoder
    named = flatten(chosen).get(ENCODER) is not None or config.localize.encoder != default
    if named or config.localize.encoder_options or not reaches(until, "localize"):
        return {}
    if stamps.read_stamp(run / "localize") is not None or _is_here(registry.create("encoders", default)):
        return {}
    for component in registry.components("encoders"):
        if component.package == registry.CORE:
            continue
        with suppress(Llm4sbrError):
            registry.create("encoders", component.name)
            progress.note(
                f"{ENCODER}: the default, {default}, is not on this machine and no hub can be reached; "
                f"{component.name} of {component.package} is here and taken"
            )
            return {"localize": {"encoder": component.name}}
    return {}


def _is_here(encoder: Any) -> bool:
    """Whether a transformers model is in a folder, in the hub's cache or on a hub that answers."""
    from llm4sbr.system import models

    return models.file(str(encoder.model), "config.json", encoder.revision or "main") is not None
