"""Files outside the run that it depends on: the user's data and local models."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm4sbr import registry, store
from llm4sbr.config import Config, Settings, flatten, merge, nest, to_settings
from llm4sbr.errors import ConfigError, DataError, RegistryError
from llm4sbr.system import models

MODELS = {
    "infer": ("llms", "infer.llm"),
    "localize": ("encoders", "localize.encoder"),
    "evaluate": ("llms", "evaluate.llm"),
}
"""Stage that may use a local model folder -> kind of the model, and the setting that names it."""

HASHED = 64 << 20
"""Data files up to so many bytes are hashed by every command: a tenth of a second at most."""

CONTENT = "content of "
"""Prefix of such a setting in a stamp; its value is a hash of the folder's content."""


def with_full_paths(chosen: Settings) -> Settings:
    """The settings with absolute file names, so that they work from any folder."""
    flat = flatten(chosen)
    named = {"data.path", "infer.cache", *(f"data.options.{name}" for name in _file_options(flat))}
    data = Path(str(flat.get("data.path") or "")).expanduser()
    beside = data if data.is_dir() else data.parent
    full = {
        key: str(_found(Path(flat[key]).expanduser(), beside))
        for key in named & flat.keys()
        if isinstance(flat[key], str | Path) and str(flat[key])
    }
    return merge(chosen, nest(full))


def _found(file: Path, beside: Path) -> Path:
    """The absolute name of a file here or, if there is none, of one beside the data."""
    there = beside / file
    return (there if not file.exists() and there.exists() else file).absolute()


def _file_options(flat: dict[str, Any]) -> list[str]:
    """Options of the reader that name files, by their type."""
    if not any(key.startswith("data.options.") for key in flat):
        return []
    with suppress(RegistryError):  # raised again when the reader is used
        reader = registry.load("readers", str(flat.get("data.reader", Config().data.reader)))
        parameters = inspect.signature(reader).parameters.values()
        return [one.name for one in parameters if "Path" in str(one.annotation)]
    return []


def data_files(config: Config) -> list[list[Any]]:
    """Name, size and content of the files that the reader says it reads, else of all files in its path.

    Content is the hash of a file up to `HASHED` bytes, and of a larger one the times of its last change, of
    which one cannot be set by hand.
    """
    path = config.data.path
    if path and not path.exists():
        raise ConfigError(f"data.path: {path} does not exist")
    reader = registry.create("readers", config.data.reader, path=path, **config.data.options)
    if hasattr(reader, "files"):
        files = sorted(reader.files())
    elif path is None:
        files = []
    else:
        files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    try:
        return [[path.name, path.stat().st_size, _content(path)] for path in files]
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None


def _content(path: Path) -> str:
    status = store.regular(path)
    if status.st_size <= HASHED:
        return store.file_sha256(path)
    return f"{status.st_mtime_ns} {status.st_ctime_ns}"


def model_content(stage: str, config: Config) -> dict[str, str]:
    """Content hash of the stage's model, if it is a local folder or file, whatever its name."""
    kind, setting = MODELS[stage]
    flat = flatten(to_settings(config))
    given = {
        "infer": config.infer.options,
        "localize": config.localize.encoder_options,
        "evaluate": config.evaluate.llm_options,
    }
    _, options = registry.split_argument(kind, flat[setting], given[stage])
    model = Path(str(options.get("model", ""))).expanduser()
    return {f"{CONTENT}{setting}": models.content(model)} if options.get("model") and model.exists() else {}
