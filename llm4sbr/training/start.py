"""What the models of a run start from: the trained models of an older run, `llm4sbr train NEW --from OLD`.

The folder `start` of the new run has links to the old weights, moments and data, so that the old run may be
moved, trained again or deleted. What is in it decides, not where it came from.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from llm4sbr import folders, stamps, store
from llm4sbr.config import Config, flatten, read_toml, to_settings
from llm4sbr.config.files import CONTENT, model_content
from llm4sbr.config.in_force import RESOLVED, check_run
from llm4sbr.data import prepared as files
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import DamagedError, InputError, StoreError
from llm4sbr.freshness import START
from llm4sbr.fusion.saved import RECORD, WEIGHTS
from llm4sbr.training.trained import trained_models

MOMENTS = "moments.safetensors"
"""Beside a model's weights: the optimizer's moments at the end of its training."""

BEHAVIOUR = ("data.reader", "infer.llm", "train.backbone", "train.options", "train.dim")
TEXT = (
    *("infer.perspectives", "localize.encoder", "localize.encoder_options", "localize.item_text"),
    *("train.fuser", "train.fuser_options"),
)
"""Settings that have to be those of the old run; of `TEXT` where there are intents."""

LEAST = 0.5
"""Share of the smaller catalogue that both must have, key and title, to be of one data set."""

FORMAT = 1


class Start(NamedTuple):
    """The folder `start` of a run."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def of(cls, run: Path) -> Start | None:
        """That of a run, None if its models start anew."""
        path = run / START
        folders.mend_folder(path.parent)
        if not path.exists():
            return None
        record = store.read_record(path, "begin again with --from")
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise StoreError(f"{path}: not written by this version; begin again with --from")
        return cls(path.parent, record)

    @property
    def origin(self) -> str:
        """Name of the old run."""
        return str(self.record["from"])

    def read(self, part: str, name: str) -> Path | None:
        """A file of one of the old models, checked; None if there is none."""
        digest = self.record["models"].get(part, {}).get(name)
        if digest is None:
            return None
        path = self.folder / part / name
        if store.file_sha256(path) != digest:
            raise DamagedError(f"{path}: changed since it was taken; begin again with --from")
        return path

    def items(self) -> pl.DataFrame:
        """The old catalogue: `key`, `title`, in the order of its ids."""
        return store.read_table(self.folder / files.ITEMS, ["key", "title"])

    def unseen(self, run: Path, prepared: Prepared) -> Tensor:
        """Training samples of a run whose sessions the old models were not trained on, bool (M,)."""
        sessions = store.read_table(run / "prepare" / files.SESSIONS, ["session", "time"])
        sessions = sessions.with_row_index("number").join(self._trained(), on=["session", "time"], how="anti")
        new = torch.zeros(len(prepared.sessions.offsets), dtype=torch.bool)
        new[torch.from_numpy(sessions["number"].to_numpy().astype("int64"))] = True
        start = prepared.samples["train"].start
        return new[torch.searchsorted(prepared.sessions.offsets, start, right=True) - 1]

    def _trained(self) -> pl.DataFrame:
        """`session` and `time` of the sessions that the old models were trained on."""
        own = store.read_table(self.folder / files.SESSIONS, ["session", "time"])
        return own.head(self.record["trained_sessions"])

    def check(self, run: Path, config: Config, prepared: Prepared) -> None:
        """Refuse other components, another data set, and test samples that the old models were trained on.

        Raises:
            InputError: one of these.
        """
        mend = f"train it anew: llm4sbr train {run} --from none"
        old, new = self.record["components"], components(config)
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                raise InputError(
                    f"{key} is {old.get(key)!r} in {self.origin} and {new.get(key)!r} in {run}, and a model "
                    f"starts from another of the same components only; {mend}"
                )
        keys, titles = prepared.catalogue.keys, prepared.catalogue.titles
        before = self.items()
        same = before.join(pl.DataFrame({"key": keys, "title": titles}), on=["key", "title"], how="semi")
        least = LEAST * min(before.height, len(keys))
        if same.height < least:
            raise InputError(
                f"{self.origin} is of another data set: {same.height:,} of its {before.height:,} items are "
                f"among the {len(keys):,} of {run}; {mend}"
            )
        tested = _tested(run / "prepare", prepared)
        seen = tested.join(self._trained(), on=["session", "time"], how="semi")
        if seen.height:
            raise InputError(
                f"{seen.height:,} of the {tested.height:,} sessions that {run} validates and tests on were "
                f"trained on in {self.origin}, so its figures would be too good; a warm start needs sessions "
                f"that are split by time (data.split=temporal) and end (data.sessions=gap); {mend}"
            )


def take(run: Path, old: Path, config: Config) -> Start:
    """Make the folder `start` of a run, whose `prepare` is fresh, from the trained models of an old one.

    Nothing changes if the old run cannot be used.

    Raises:
        InputError: other components, another data set, or a test that the old models know.
        StoreError: there is no such run, it is not trained, or its files do not belong together.
    """
    check_run(old)
    if old.resolve() == run.resolve():
        raise InputError(f"{run}: a run cannot start from itself; name a new one")
    before = load(old / "prepare")
    temporary = run / f"{Path(START).parent}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        models = {}
        for one in trained_models(old):
            record = store.read_json(one.folder / RECORD)
            if record["catalogue"] != catalogue_hash(before.catalogue):
                raise StoreError(f"{one.folder}: of another catalogue than prepare has now; train it again")
            there = [name for name in (WEIGHTS, MOMENTS) if (one.folder / name).exists()]
            part = f"{one.variant}/seed-{one.seed}"
            models[part] = {name: store.file_sha256(one.folder / name) for name in there}
            if models[part].get(WEIGHTS) != record["weights"]:
                raise DamagedError(f"{one.folder / WEIGHTS}: changed since it was written; train it again")
            for name in there:
                folders.link_file(one.folder / name, temporary / part / name)
        for name in (files.ITEMS, files.SESSIONS):
            folders.link_file(old / "prepare" / name, temporary / name)
        decisive = {
            "models": models,
            "items": store.file_sha256(temporary / files.ITEMS),
            "trained_sessions": len(before.train.offsets) - 1,
            "components": _components_of(old),
        }
        about = {"format": FORMAT, "from": old.name, "fingerprint": store.fingerprint(decisive)}
        store.write_record(temporary / Path(START).name, about | decisive)
        Start(temporary, about | decisive).check(run, config, load(run / "prepare"))
        folders.replace_folder(temporary, (run / START).parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = Start.of(run)
    assert found is not None
    return found


def drop(run: Path) -> None:
    """Let the models of a run start anew."""
    shutil.rmtree((run / START).parent, ignore_errors=True)


def components(config: Config) -> dict[str, Any]:
    """The settings that both runs must have in common, and the encoder's content."""
    flat = flatten(to_settings(config))
    found = _common(flat)
    return found | (model_content("localize", config) if "localize.encoder" in found else {})


def _components_of(old: Path) -> dict[str, Any]:
    found = _common(flatten(read_toml(old / RESOLVED)))
    stamp = stamps.read_stamp(old / "localize")
    contents = {
        key: value for key, value in (stamp.parts if stamp else {}).items() if key.startswith(CONTENT)
    }
    return found | (contents if "localize.encoder" in found else {})


def _common(flat: dict[str, Any]) -> dict[str, Any]:
    wanted = BEHAVIOUR if flat.get("infer.llm") == "none" else (*BEHAVIOUR, *TEXT)
    named = tuple(f"{one}." for one in wanted)
    return {
        key: value for key, value in flat.items() if (key in wanted or key.startswith(named)) and value != {}
    }


def _tested(folder: Path, prepared: Prepared) -> pl.DataFrame:
    """`session` and `time` of the sessions that validation and test samples come from."""
    parts = [prepared.samples[name].start for name in ("valid", "test")]
    owners: set[int] = set()
    for starts in parts:
        owners |= set((prepared.sessions.offsets.numpy().searchsorted(starts.numpy(), "right") - 1).tolist())
    return store.read_table(folder / files.SESSIONS, ["session", "time"])[sorted(owners)]
