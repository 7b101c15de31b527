"""Opens an exported ONNX model and its catalogue, from the folder that `export` wrote.

Needs only numpy and onnxruntime: a serving machine has neither torch nor transformers nor polars, so it
starts fast and stays small. Every file is checked against its recorded hash before it is used.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llm4sbr import store
from llm4sbr.errors import DamagedError, InputError, StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.added import ADDED
from llm4sbr.serving.attributes import ATTRIBUTES, Attributes
from llm4sbr.serving.external import external_files
from llm4sbr.serving.items import ITEMS, catalogue_of
from llm4sbr.serving.recommendation import Source
from llm4sbr.serving.search import INDEX, Search
from llm4sbr.system import installation, memory

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT = 2
"""Version of `artefact.json`."""

RECORD, GRAPH = "artefact.json", "model.onnx"

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""Short name -> ONNX Runtime's name, fastest first."""

ENGINES = "engines"
"""Subfolder in which ONNX Runtime's TensorRT provider caches its engines."""

Ids = NDArray[np.int64]
Scores = NDArray[np.float32]


class Artefact:
    """An exported model; open it with `Artefact.open`.

    Attributes:
        record: the content of `artefact.json`.
        keys: the items' ids in the user's own data, in catalogue order.
        titles: their titles.
        attributes: their attributes, clicks and named filters, none in exports of earlier versions.
        provider: the execution provider in use: `cpu`, `cuda` or `tensorrt`.
        exclude_seen: whether lists exclude a session's own items by default, as in training.
    """

    def __init__(
        self,
        record: dict[str, Any],
        catalogue: Catalogue,
        session: InferenceSession,
        search: Search | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        self.record = record
        self.keys = catalogue.keys
        self.titles = catalogue.titles
        self.attributes = attributes or Attributes({})
        self.session = session
        self.search = search
        self.provider = provider_of(session)
        self.intent_mode: str = record["variant"]  # so called in files since the first version
        self.k: int = record["k"]
        self.max_length: int = record["max_length"]
        self.num_items: int = record["num_items"]
        self.exclude_seen: bool = record.get("exclude_seen", True)
        self.fingerprint: str = record["fingerprint"]
        self.perspectives: list[str] = record["perspectives"]
        self.text_dim: int = record["text_dim"]
        self.source: Source = record.get("source") or "predictor"
        """What the graph's own intents are: `predictor`, or `items`, looked up by the last item."""
        self.takes_intents = "intents" in record["inputs"]
        self.tells_intents = "intents" in {one.name for one in session.get_outputs()}
        optional = {one.name for one in session.get_overridable_initializers()}
        filtered = search is not None or "allowed" in optional
        self.lacks_filters = "" if filtered else "this artefact takes no filters; export again"

    @classmethod
    def open(cls, folder: Path, *, threads: int | None = None, provider: Provider = "auto") -> Artefact:
        """Open the artefact in `folder`.

        Args:
            folder: such as `runs/x/export/onnx`.
            threads: of one request; by default one per core.
            provider: who must compute. `auto` takes the fastest that works; any other name is an error if
                ONNX Runtime would fall back to another.

        Raises:
            StoreError: a file is missing, truncated, changed, or does not belong to the others.
            InputError: the provider is not to be had.
            ModelUnavailableError: onnxruntime is not installed.
        """
        record = read_record(folder)
        check_files(folder, record)
        items, files = catalogue_of(folder, record), record["files"]
        session = open_session(folder / GRAPH, threads=threads, provider=provider)
        _check_graph(folder, record, session)
        search, _ = opened_index(folder, session)
        known = ATTRIBUTES in files  # in the exports of earlier versions it is not
        attributes = Attributes.open(folder / ATTRIBUTES, items.size) if known else None
        opened = cls(record, items, session, search, attributes)
        if ADDED in files:
            from llm4sbr.serving.grown import Grown  # which is an `Artefact`

            return Grown.of(opened, folder)
        return opened

    def top(
        self,
        items: Ids,
        mask: NDArray[np.bool_],
        *,
        intents: NDArray[np.float32] | None = None,
        exclude_seen: bool | NDArray[np.bool_] | None = None,
    ) -> tuple[Ids, Scores]:
        """The K best items for each session: ids int64 (B, K), 0 for none, and scores (B, K).

        Args:
            items: int64 (B, T), right-padded.
            mask: bool (B, T), true at clicks.
            intents: float32 (B, P, E) in the intent mode `intents`; None there means that none are known.
            exclude_seen: leave out a session's own items; one value, or one per session, bool (B,). By
                default as the model was trained.

        Raises:
            InputError: a wrong dtype, rank, size or value.
        """
        self._check(items, mask)
        batch = len(items)
        flags = np.asarray(self.exclude_seen if exclude_seen is None else exclude_seen, dtype=np.bool_)
        if flags.shape not in ((), (batch,)):
            raise InputError(f"exclude_seen: shape {flags.shape}, expected one value or ({batch},)")
        if self.takes_intents:
            intents = self._intents(intents, batch)
        elif intents is not None:
            raise InputError(
                f"intents: this artefact takes none (its intent mode is {self.intent_mode!r}); leave them out"
            )
        return self.run(items, mask, np.broadcast_to(flags[..., None], (batch, 1)), intents)

    def run(
        self,
        items: Ids,
        mask: NDArray[np.bool_],
        exclude_seen: NDArray[np.bool_],
        intents: NDArray[np.float32] | None = None,
        allowed: NDArray[np.float32] | None = None,
    ) -> tuple[Ids, Scores]:
        """As `top`, for checked inputs: `exclude_seen` is bool (B, 1), `allowed` float32 (B or 1, N)."""
        feed: dict[str, NDArray[Any]] = {"items": items, "mask": mask, "exclude_seen": exclude_seen}
        if self.takes_intents:
            feed["intents"] = self._intents(None, len(items)) if intents is None else intents
        if allowed is not None:
            feed["allowed"] = allowed
        if self.search is not None:
            return self.search.answer(self.session, feed, self.k)
        ids, scores = self.session.run(["item_ids", "scores"], feed)
        return ids, scores

    def predict(self, items: Ids, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The intents that the graph predicts, float32 (B, P, E), without scoring any item.

        Raises:
            InputError: as for `top`, or the graph does not tell any.
        """
        self._check(items, mask)
        if not self.tells_intents:
            raise InputError("this artefact does not tell intents; export again with --intents predictor")
        options = onnxruntime().RunOptions()
        options.only_execute_path_to_fetches = True
        feed = {"items": items, "mask": mask, "exclude_seen": np.ones((len(items), 1), np.bool_)}
        if self.search is not None:
            del feed["exclude_seen"]
        found: NDArray[np.float32] = self.session.run(["intents"], feed, options)[0]
        return found

    def _check(self, items: Ids, mask: NDArray[np.bool_]) -> None:
        if items.dtype != np.int64 or mask.dtype != np.bool_:
            raise InputError(f"items, mask: {items.dtype} and {mask.dtype}, expected int64 and bool")
        if items.ndim != 2 or items.shape != mask.shape or not items.size:
            raise InputError(f"items, mask: shapes {items.shape} and {mask.shape}, expected (B, T) both")
        if items.shape[1] > self.max_length:
            raise InputError(f"items: {items.shape[1]} clicks, at most {self.max_length} are allowed")
        if not mask[:, 0].all() or (mask[:, 1:] & ~mask[:, :-1]).any():
            raise InputError("mask: every session needs a click, and clicks must come before the padding")
        clicks = items[mask]
        if clicks.min() < 1 or clicks.max() > self.num_items:
            wrong = clicks[(clicks < 1) | (clicks > self.num_items)][0]
            raise InputError(f"items: {wrong} is not a catalogue id in 1..{self.num_items}")

    def _intents(self, intents: NDArray[np.float32] | None, batch: int) -> NDArray[np.float32]:
        shape = (batch, len(self.perspectives), self.text_dim)
        if intents is None:
            return np.zeros(shape, np.float32)
        if intents.dtype != np.float32 or intents.shape != shape:
            raise InputError(f"intents: {intents.dtype} {intents.shape}, expected float32 {shape}")
        if not np.isfinite(intents).all():
            raise InputError("intents: not all numbers are finite; send zeros where no intent is known")
        return intents


def read_record(folder: Path) -> dict[str, Any]:
    """The content of `artefact.json`; `StoreError` if it is missing, incomplete or of another version."""
    path = folder / RECORD
    if not path.exists():
        raise StoreError(f"{folder}: no exported model ({RECORD} is missing); run llm4sbr export first")
    record = store.read_record(path, "copy or export it again")
    if not isinstance(record, dict) or "format" not in record:
        raise StoreError(f"{path}: not written by export; export again")
    if record["format"] != FORMAT:
        raise StoreError(f"{path}: format {record['format']}, this version reads {FORMAT}; export again")
    expected = {"variant": str, "k": int, "max_length": int, "num_items": int, "fingerprint": str}
    expected |= {"catalogue": str, "perspectives": list, "text_dim": int, "inputs": dict, "files": dict}
    for key, type_ in expected.items():
        if type(record.get(key)) is not type_:
            raise StoreError(f"{path}: {key} is {record.get(key)!r}, expected {type_.__name__}; export again")
    return record


def check_files(folder: Path, record: dict[str, Any]) -> None:
    """Raise `StoreError` if a file of the artefact is missing or has changed."""
    files = record["files"]
    if GRAPH not in files and not (folder / GRAPH).exists():
        kind = str(record.get("kind"))
        raise StoreError(f"{folder}: a {kind} export has no {GRAPH} to open here; export with --format onnx")
    for name in (GRAPH, ITEMS, *files):
        if name not in files or Path(name).name != name:
            raise StoreError(f"{folder / RECORD}: files: {name!r} has no hash or is no name; export again")
        if store.file_sha256(folder / name) != files[name]:
            raise DamagedError(f"{folder / name}: not the file that was exported; copy or export it again")
    for name in sorted(external_files(folder / GRAPH)):
        if name not in files:
            raise StoreError(
                f"{folder / GRAPH}: has weights in {name!r}, not a file of this export; export again"
            )


def open_session(path: Path, *, threads: int | None = None, provider: Provider = "auto") -> InferenceSession:
    """An ONNX Runtime session for the graph at `path`; errors as in `Artefact.open`."""
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors are raised anyway
    wanted = _providers(runtime.get_available_providers(), provider, path)
    try:
        session: InferenceSession = runtime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # the runtime has a dozen undocumented exception types
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{path}: ONNX Runtime cannot load it: {reason}") from None
    found = provider_of(session)
    if provider not in ("auto", found):
        raise InputError(f"provider {provider}: ONNX Runtime fell back to {found}; llm4sbr doctor shows why")
    memory.use_huge_pages()  # for the tables, which every request reads
    return session


def opened_index(folder: Path, session: InferenceSession) -> tuple[Search | None, int]:
    """The index of a graph that ends with the session's query, None for other graphs, and K.

    Raises:
        StoreError: it is missing, damaged, or another model's.
    """
    about = session.get_modelmeta().custom_metadata_map
    if "query" not in {one.name for one in session.get_outputs()}:
        return None, 0
    try:
        record = {**about, "num_items": int(about["num_items"])}
        return Search.open(folder / INDEX, record), int(about["k"])
    except (KeyError, ValueError):
        raise StoreError(f"{folder / GRAPH}: does not say what it was exported from; export again") from None


def provider_of(session: InferenceSession) -> str:
    """Short name of the provider that a session actually uses."""
    names = {name: short for short, name in PROVIDERS.items()}
    first: str = session.get_providers()[0]
    return names.get(first, first)


def onnxruntime() -> Any:
    """The module; `ModelUnavailableError` if it is not installed.

    From 1.32 on its import writes a device identifier and events to upload into the user's cache folder,
    unless a variable is set before; whoever wants that sets it to 0.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as runtime
    except ModuleNotFoundError:
        raise installation.not_installed("onnxruntime", "serve") from None
    return runtime


def _providers(available: list[str], provider: Provider, path: Path) -> list[Any]:
    """Providers to request, with options; the CPU comes last, for operators without a GPU version."""
    if provider != "auto" and PROVIDERS.get(provider) not in available:
        have = ", ".join(short for short, name in PROVIDERS.items() if name in available)
        raise InputError(
            f"provider {provider}: this onnxruntime has {have}; "
            f"pip uninstall onnxruntime, then {installation.command('serve-gpu')}"
        )
    cache = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(path.parent / ENGINES)}
    cache |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(path.parent / ENGINES)}
    cpu = PROVIDERS["cpu"]
    if provider == "tensorrt":
        return [(PROVIDERS["tensorrt"], cache), PROVIDERS["cuda"], cpu]
    if provider == "cpu" or PROVIDERS["cuda"] not in available:
        return [cpu]
    return [PROVIDERS["cuda"], cpu]


def _check_graph(folder: Path, record: dict[str, Any], session: InferenceSession) -> None:
    """Raise `StoreError` if the record does not match the graph."""
    about = session.get_modelmeta().custom_metadata_map
    for key in ("fingerprint", "catalogue", "variant", "k", "num_items", "max_length"):
        recorded, found = record[key], about.get(key)
        if found != str(recorded):
            raise StoreError(
                f"{folder / RECORD}: {key} is {recorded!r}, the graph says {found!r}; export again"
            )
    if not all(isinstance(name, str) for name in record["perspectives"]):
        raise StoreError(f"{folder / RECORD}: perspectives are no names; export again")
    shape = [len(record["perspectives"]), record["text_dim"]]
    for one in (*session.get_inputs(), *session.get_outputs()):
        if one.name == "intents" and list(one.shape[1:]) != shape:
            raise StoreError(
                f"{folder / RECORD}: intents of {shape}, the graph has {list(one.shape[1:])}; export again"
            )
    names = {one.name for one in session.get_inputs()}
    if names != set(record["inputs"]):
        raise StoreError(
            f"{folder / RECORD}: inputs {sorted(record['inputs'])}, the graph has {sorted(names)}"
        )
