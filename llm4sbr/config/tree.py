"""All settings of a run, as one immutable tree with defaults.

Layers, later ones winning: the defaults below; what the chosen components suggest (`suggests`); the protocol
(`PROTOCOLS`); a TOML file (`--config`); `--set section.key=value`; options of the command. In a run folder,
`config.toml` has the chosen settings, `resolved.toml` all in use.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm4sbr.config.layers import Settings, flatten, merge
from llm4sbr.config.types import LARGEST, SEEDS, Amount, Device, Lengths, Names, OptionsByName, SomeNames
from llm4sbr.errors import ConfigError


class Section(BaseModel):
    """Base of every section: frozen, and unknown keys are an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # in the free `options`, which TOML can say
    )


class DataConfig(Section):
    """Stage `prepare`."""

    reader: str = "ml-100k"
    """Reader of the raw log: an installed name of kind `readers`."""
    path: Path | None = None
    """File or folder of the raw log; by default the reader's own download, if it has one."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the reader, such as column names."""
    sessions: Literal["session", "user", "gap", "bins"] | None = None
    """What defines a session: a column, a user's whole history, a pause, or fixed time bins.
    By default the session column if there is one, else `gap` if the data has times, else `user`."""
    gap_seconds: float = Field(600, gt=0)
    """`gap`: a pause longer than this starts a new session. `bins`: the width of a bin."""
    min_item_count: int = Field(5, ge=1, lt=LARGEST)
    """Items with fewer clicks are dropped, repeatedly together with `min_length`, until nothing changes."""
    min_length: int = Field(2, ge=2, lt=LARGEST)
    """Shorter sessions are dropped."""
    max_length: int = Field(50, ge=1, lt=LARGEST)
    """Maximum length of a prefix; longer ones keep their most recent clicks."""
    train_prefixes: Literal["last", "all"] | None = None
    """Training samples. `all`: every click of a session except the first is a target. `last`: the last click.
    By default `all`; under the `paper` split, which draws both parts from one set, as `test_prefixes`."""
    test_prefixes: Literal["last", "all"] | None = None
    """Validation and test samples, as for `train_prefixes`. By default `all`; under the `paper` split what
    the paper does with the data set; `leave-last-out` only has `last`."""
    repeats: Literal["auto", "yes", "no"] = "auto"
    """Whether lists may contain the session's own items, in training, in every row of the table, and in
    serving. `auto`: yes if 1% or more of the training targets repeat an item of their session."""
    split: Literal["temporal", "random", "paper", "leave-last-out"] | None = None
    """Whole sessions: `temporal` (default if there are times) or `random`. `paper`: random samples in its
    numbers, none to validate. `leave-last-out`: a session's last click, though training sees later ones."""
    valid: float = Field(0.1, ge=0, lt=1)
    """Share of sessions for validation."""
    test: float = Field(0.1, gt=0, lt=1)
    """Share of sessions for testing."""
    hold_out: float = Field(0.0, ge=0, lt=1)
    """Share of the items, the newest, that no click is trained on: `evaluate --cold` tests on them."""
    max_sessions: int | None = Field(None, ge=1)
    """Keep only this many sessions, the most recent ones."""
    sample: float | None = Field(None, gt=0, le=1)
    """Keep this share of sessions, at random."""
    seed: int = Field(0, ge=0, lt=SEEDS)
    """Seed of `sample` and of the random split."""
    strict: bool = False
    """Stop at the first unreadable row instead of counting it."""


class InferConfig(Section):
    """Stage `infer`: how the LLM is asked, and the controls to compare it with."""

    llm: str = "none"
    """The LLM: an installed name of kind `llms`, or `transformers:FOLDER_OR_HUB_ID`."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the LLM."""
    perspectives: SomeNames = ("long", "short")
    """Names of kind `perspectives`."""
    wording: str = "paper"
    """Wording of the prompts: `paper`, `natural`, or your own TOML file."""
    max_items: int = Field(50, ge=1)
    """Maximum number of a session's most recent items in a prompt."""
    attributes: Names = ()
    """Item attributes shown after the title in prompts, such as `category`."""
    budget: Amount = None
    """Stop asking after a number of prompts (`20000`) or a time (`90s`, `30m`, `2h`); the remaining samples
    have no intent. A later run continues where this one stopped. `none` is no limit."""
    select: Literal["coverage", "random", "recent", "uncertain"] = "coverage"
    """Which samples are asked first under a budget: whole sessions before shorter prefixes, and prompts that
    answer many samples before others; a random share; the most recent sessions; or samples for which a plain
    backbone is least sure. For the remaining samples, intents can be predicted."""
    controls: Names = ("item-text", "shuffled", "none")
    """Controls: replacements for the LLM's answers, to show what these are worth."""
    cache: Path | None = None
    """The answer cache; by default `answers.sqlite` in the user's cache folder, shared by all runs."""
    seed: int = Field(0, ge=0, lt=SEEDS)
    """Seed for the order in which samples are asked, and for the control `shuffled`."""


class LocalizeConfig(Section):
    """Stage `localize`."""

    encoder: str = "bert"
    """Text encoder: an installed name of kind `encoders`, or `transformers:FOLDER_OR_HUB_ID`. If nobody
    chose one and the default cannot be had, one of an installed package is taken."""
    encoder_options: dict[str, Any] = {}
    """Further keyword arguments of the encoder."""
    localizer: str = "nearest"
    """An installed name of kind `localizers`."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the localizer, such as `weights`."""
    f: int = Field(5, ge=0)
    """Items that an answer is tied to (the paper's f); 0 keeps the embedding of the answer itself."""
    item_text: Literal["title", "full", "answers", "both"] = "title"
    """The text that represents an item: its title; title and attributes (`full`); the answers about it
    (`answers`); or its title and these answers (`both`). The last two need perspectives that ask about items.
    Each source of answers then has vectors of its own, and items without an answer have their title."""


class TrainConfig(Section):
    """Stage `train`. Optimizer, hidden size, batch size and tau are the paper's (section 4.1.3)."""

    tunes: ClassVar[dict[str, Any]] = {
        "learning_rate": (1e-4, 1e-2, "log"),
        "l2": (1e-7, 1e-3, "log"),
        "dim": [50, 100, 200],
        "batch_size": [50, 100, 200, 500],
        "tau": (0.0, 0.5),
        "intent_dropout": (0.0, 0.5),
    }

    backbone: str = "sr-gnn"
    """An installed name of kind `backbones`."""
    options: dict[str, Any] = {}
    """Further keyword arguments of the backbone."""
    fuser: str = "whitened"
    """An installed name of kind `fusers`."""
    fuser_options: dict[str, Any] = {}
    """Further keyword arguments of the fuser."""
    neighbours: int = Field(0, ge=0, lt=LARGEST)
    """Entries per item of a fixed item-item model beside which a model is trained, 20 million in all at most;
    0 for none, which is faster and often better: `counted` adds such a model afterwards."""
    counted: Names = ("near", "lift", "titles", "slist")
    """What is added to a trained model's scores, but the plain backbone's, with weights fitted to validation
    samples: counts of what stands `near` each other in sessions and of what does beyond chance (`lift`), the
    likeness of `titles` where the fuser reads them, the linear model `slist`. Empty: nothing."""
    dim: int = Field(100, ge=1, lt=LARGEST)
    """D, the hidden size."""
    epochs: int = Field(30, ge=1)
    """Maximum number of epochs."""
    warm_epochs: int = Field(3, ge=1)
    """Maximum number of epochs of a model that starts from an older run's (`train --from`)."""
    replay: float = Field(1.0, ge=0)
    """Old samples, of sessions that the older run was trained on, per new one in an epoch of such a model."""
    patience: int = Field(2, ge=1)
    """Early stopping: number of epochs without a better validation MRR@20."""
    batch_size: int = Field(100, ge=2, lt=LARGEST)
    """Batch size."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate of Adam."""
    schedule: Literal["plateau", "epochs"] = "plateau"
    """When the learning rate falls: `plateau`, after an epoch that is no better on validation than all
    before it; `epochs`, every `decay_every` epochs, as in the paper and without a validation part."""
    decay_every: int = Field(3, ge=1)
    """Number of epochs between two decays of the learning rate, with `schedule = epochs`."""
    decay: float = Field(0.1, gt=0, le=1)
    """Factor of each decay."""
    l2: float = Field(1e-5, ge=0)
    """Weight decay (as an L2 penalty in the gradient, as in Adam)."""
    loss: Literal["auto", "full", "uniform", "popularity", "in-batch"] = "auto"
    """Items of the loss's softmax. `full`: all. Otherwise a batch's targets and items that are drawn for the
    batch, each as likely (`uniform`), by the root of its clicks (`popularity`), or none (`in-batch`), so that
    a step costs the same for any catalogue. `auto`: `full` up to 20,000 items, `popularity` above."""
    negatives: int = Field(2048, ge=1, lt=LARGEST)
    """Number of items drawn per batch, for a `loss` that draws."""
    tau: float = Field(0.1, ge=0)
    """Weight of the auxiliary loss alignment + uniformity (Eq. 12)."""
    intent_dropout: float = Field(0.2, ge=0, lt=1)
    """Probability that a training sample's intents are dropped: the model also serves sessions without."""
    baselines: Names = ("popularity", "item-knn", "vmis-knn", "slist")
    """Names of kind `baselines` that appear in the table."""
    baseline_options: OptionsByName = {}
    """Further keyword arguments of these baselines, by name, such as `train.baseline_options.slist.l2`."""
    plain: bool = True
    """Also train the plain backbone, for comparison."""
    text_init: bool = False
    """Also train the plain backbone with embeddings that start as text vectors (PCA to D), as `text-init`."""
    seeds: int = Field(1, ge=1, lt=LARGEST)
    """Number of seeds; the table shows mean and standard deviation."""
    seed: int = Field(0, ge=0, lt=SEEDS)
    """The first seed."""
    workers: int | None = Field(None, ge=1)
    """Models trained in parallel, which divide the cores among them; by default one per core, at most 4."""
    device: Device = "auto"
    """`cpu`, `cuda`, `cuda:1`; `auto` takes a GPU if there is one. Under `torchrun` one GPU per process."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: matrix products of the model in bfloat16; weights, losses and optimizer stay float32."""
    compile: bool = False
    """Compile the model with torch.compile. Takes about a minute per model and needs a C++ compiler."""


class EvaluateConfig(Section):
    """Stage `evaluate`."""

    k: Lengths = (5, 10, 20)
    """List lengths."""
    batch_size: int = Field(512, ge=1, lt=LARGEST)
    """Samples per batch."""
    llm: str = "none"
    """The LLM that baselines ask which ask one (llm4sbr-related): a name of kind `llms`, as `infer.llm`."""
    llm_options: dict[str, Any] = {}
    """Further keyword arguments of this LLM."""
    samples: int = Field(200, ge=1)
    """Test samples that such a baseline asks about: a random choice, the same for all and in every run."""
    budget: Amount = None
    """Stop asking after a number of prompts or a time (as `infer.budget`), for each such baseline."""


class EngineConfig(Section):
    """Where `infer` and `localize` do their work; results do not depend on it."""

    name: str = "local"
    """An installed name of kind `engines`: `local`, or `ray` (llm4sbr-ray)."""
    options: dict[str, Any] = {}
    """Keyword arguments of the engine, such as `workers`."""


class Config(Section):
    """All settings of a run, by stage."""

    protocol: Literal["default", "paper"] = "default"
    """`paper`: data and training as in the paper, including the choice of the best epoch on the test set; see
    `PROTOCOLS`. Other settings override it and are named next to the results."""
    data: DataConfig = DataConfig()
    infer: InferConfig = InferConfig()
    localize: LocalizeConfig = LocalizeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    engine: EngineConfig = EngineConfig()


PROTOCOLS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "data.repeats": "yes",
        "data.split": "paper",  # without a validation part: the best epoch is chosen on the test set
        "data.min_item_count": 5,
        "data.min_length": 2,
        "data.gap_seconds": 600,
        "localize.f": 5,
        "train.fuser": "gated",
        "train.neighbours": 0,
        "train.counted": [],
        "train.dim": 100,
        "train.batch_size": 100,
        "train.learning_rate": 1e-3,
        "train.schedule": "epochs",
        "train.decay": 0.1,
        "train.decay_every": 3,
        "train.l2": 1e-5,
        "train.loss": "full",
        "train.tau": 0.1,
        "train.intent_dropout": 0.0,
    },
}
"""Protocol -> its settings, by dotted key (LLM4SBR, sections 4.1.1 and 4.1.3), without what it compares."""


def departures(config: Config) -> list[str]:
    """Settings that differ from their protocol's, as `train.dim=64`."""
    flat = flatten(to_settings(config))
    return [f"{key}={flat[key]}" for key, value in PROTOCOLS[config.protocol].items() if flat[key] != value]


def build(*layers: Settings) -> Config:
    """Build the configuration from layers, later ones winning; `ConfigError` names a wrong key or value."""
    try:
        return Config.model_validate(merge(*layers))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(dict(detail)) for detail in error.errors())) from None


def to_settings(config: Config) -> Settings:
    """All settings as plain TOML values, without unset ones."""
    return config.model_dump(mode="json", exclude_none=True)


def to_toml(settings: Settings) -> str:
    """Settings as TOML text."""
    import tomli_w

    return tomli_w.dumps(settings)


REMOVED = {
    "data.prefixes": "is two settings now: data.train_prefixes, what is trained on, and data.test_prefixes, "
    "what is validated and tested on; set these (--set data.prefixes=default takes the old one out of a run)"
}
"""Settings of earlier versions, and what stands in their place."""


def _explain(error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    where = ".".join(location)
    if where in REMOVED:
        return f"{where}: {REMOVED[where]}"
    if error["type"] != "extra_forbidden":
        words = error["msg"].removeprefix("Value error, ")
        return f"{where} = {error['input']!r}: {words[0].lower()}{words[1:]}{_example(where, error)}"
    near = _nearest(location)
    hint = f"did you mean {near}?" if near else "llm4sbr config --show lists all"
    return f"{where}: no such setting ({hint})"


def _example(where: str, error: dict[str, Any]) -> str:
    """How a value of the right type is written: what was given as a list, or the default."""
    if error["type"] == "model_type":
        return "; this is a section, set one of its keys"
    if error["type"] == "tuple_type":
        given = error["input"]
        listed = [one.strip() for one in given.split(",")] if isinstance(given, str) else [given]
        return f", for instance {where}={json.dumps(listed)}"
    default = flatten(Config().model_dump()).get(where)
    if not error["type"].endswith(("_parsing", "_type")) or not isinstance(default, bool | int | float | str):
        return ""
    return f", for instance {where}={json.dumps(default)}"


def _nearest(location: list[str]) -> str | None:
    """The setting that a wrong key may have meant: of the same section if one is close, else of any."""
    known = [*flatten(Config().model_dump()), *Config.model_fields]
    anywhere = {key.rpartition(".")[2]: key for key in known}
    inside = {key.rpartition(".")[2]: key for key in known if key.split(".")[:-1] == location[:-1]}
    for keys in (inside, anywhere):
        near = get_close_matches(location[-1], keys, n=1)
        if near:
            return keys[near[0]]
    return None
