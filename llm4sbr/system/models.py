"""Models by folder or by name on the hub: their files, what is in them, and quiet loading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".safetensors", ".gguf")
"""Of the files that decide what a model does."""
WHOLE = 2**20
"""Bytes up to which a file is read whole for `content`."""
SAMPLED = 64
"""Places at which a larger one is sampled."""


def content(model: Path) -> str:
    """A short hash of what is in a model's folder, or in a model's file.

    Small files count whole, large ones by their size, their head and samples throughout: gigabytes cost a few
    milliseconds, and a model that was fine-tuned in place is still told apart. What the model is called and
    when it was written do not count.
    """
    digest = hashlib.sha256()
    root = model if model.is_dir() else model.parent
    for path in _files(model):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(root) if model.is_dir() else ''}:{size}:".encode())
        with path.open("rb") as stream:
            if size <= WHOLE:
                digest.update(stream.read())
                continue
            for place in range(SAMPLED):
                stream.seek(size * place // SAMPLED)
                digest.update(stream.read(4096))
    return digest.hexdigest()[:16]


def _files(model: Path) -> list[Path]:
    """Files of a model: those of its folder, and of the parts that a `modules.json` names."""
    if not model.is_dir():
        return [model]
    folders = {model, *(model / part for part in _parts(model / "modules.json"))}
    files = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return sorted(path for path in files if path.is_file() and path.suffix in SUFFIXES)


def _parts(modules: Path) -> list[str]:
    try:
        return [str(part["path"]) for part in json.loads(modules.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError):  # none, or none that could be used
        return []


def file(model: str, name: str, revision: str) -> Path | None:
    """A file of a model, from its folder, this machine's copy of the hub, or the hub; None if it has none.

    Without the hub, a file that is not here counts as one that the model does not have.
    """
    if Path(model).is_dir():
        path = Path(model) / name
        return path if path.is_file() else None
    import huggingface_hub

    try:
        kept = huggingface_hub.try_to_load_from_cache(model, name, revision=revision)
        if kept is not None:
            return Path(kept) if isinstance(kept, str) else None
        probe(model, revision)
        return Path(huggingface_hub.hf_hub_download(model, name, revision=revision))
    except Exception:  # HTTP clients have error trees of their own; the loaders say what is wrong
        return None


def commit(model: str, revision: str) -> str:
    """The commit of a model of the hub, or `revision` where that cannot be known."""
    files = (file(model, name, revision) for name in ("config.json", "modules.json"))
    parts = next((found.parts for found in files if found), ())
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else revision


def probe(model: str, revision: str) -> None:
    """Ask the hub once; the loaders would try five times, half a minute, before they give up."""
    from huggingface_hub import HfApi

    HfApi().model_info(model, revision=revision, timeout=10)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from reporting about local files; its settings are put back."""
    logging: Any = import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
