"""Model files, in a folder or on the hub: finding them, hashing their content, loading without noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".safetensors", ".gguf")
"""Suffixes of the files that determine a model's output."""
WHOLE = 2**20
"""Files up to this size in bytes are hashed completely."""
SAMPLED = 64
"""Number of places at which a larger file is sampled."""


def content(model: Path) -> str:
    """A short hash of the content of a model's folder or file.

    Small files are hashed completely, large ones by size, beginning and samples: a few milliseconds for
    gigabytes, and a model that was fine-tuned in place still gets another hash. The model's name and
    modification times do not count.
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
    """Files of a model: those of its folder and of the folders that `modules.json` lists."""
    if not model.is_dir():
        return [model]
    folders = {model, *(model / part for part in _parts(model / "modules.json"))}
    files = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return sorted(path for path in files if path.is_file() and path.suffix in SUFFIXES)


def _parts(modules: Path) -> list[str]:
    if not modules.is_file():
        return []
    try:
        return [str(part["path"]) for part in json.loads(modules.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError):  # not usable
        return []


def file(model: str, name: str, revision: str) -> Path | None:
    """A file of a model: from its folder, the local hub cache, or the hub; None if the model has none.

    If the hub cannot be reached, a file that is not on this machine counts as missing.
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
    except Exception:  # HTTP clients have their own exception classes; the loaders report what is wrong
        return None


def commit(model: str, revision: str) -> str:
    """The commit of a model on the hub, or `revision` if it cannot be determined."""
    files = (file(model, name, revision) for name in ("config.json", "modules.json"))
    parts = next((found.parts for found in files if found), ())
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else revision


def probe(model: str, revision: str) -> None:
    """Ask the hub once, to fail fast: the loaders would retry for half a minute."""
    from huggingface_hub import HfApi

    HfApi().model_info(model, revision=revision, timeout=10)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' messages while local files are loaded; its settings are restored afterwards."""
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
