"""A text encoder for any transformers model, whose token states are pooled into one vector per text.

A model in the layout of sentence-transformers defines the pooling itself (`layout.py`). The paper encodes
answers and item names with bert-base-uncased (Eqs. 1 and 2) and does not say how it pools the token states.
For such models mean pooling is the default, because the CLS state of a BERT that was never trained on
sentence pairs distinguishes titles poorly; `pooling = "cls"` selects it. Vectors are scaled to length 1
unless `normalize = false`, so that long and short texts have the same weight.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from llm4sbr import store
from llm4sbr.encoders.layout import Dense, Layout, read_layout
from llm4sbr.encoders.pooling import POOLINGS, Pooling, pool
from llm4sbr.errors import ConfigError, ModelUnavailableError
from llm4sbr.system import devices, models


class TransformersEncoder:
    """Text vectors from a transformers or sentence-transformers model; weights are loaded on first use.

    Args:
        model: a folder, or the name of a model on the hub.
        pooling: `mean` over the tokens without padding, `cls` (the first token), `max`,
            `mean_sqrt_len_tokens`, `weightedmean` or `lasttoken`; by default as the model's own layout
            defines, `mean` if it has none.
        normalize: scale every vector to length 1; by default as the model's own layout defines, true if it
            has none.
        max_length: maximum number of tokens per text; longer texts are truncated.
        batch_size: texts per batch.
        device: `cpu`, `cuda`, `cuda:1`; `auto` uses a GPU if there is one.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: an unknown `pooling`, or a size below 1.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        max_length: int = 64,
        batch_size: int = 128,
        device: str = "auto",
        revision: str | None = None,
    ) -> None:
        if pooling is not None and pooling not in POOLINGS:
            raise ConfigError(
                f"localize.encoder_options.pooling = {pooling!r}: expected one of {', '.join(POOLINGS)}"
            )
        if max_length < 1 or batch_size < 1:
            raise ConfigError("localize.encoder_options: max_length and batch_size must be at least 1")
        self.model = os.path.expanduser(model)
        self.max_length = max_length
        self.batch_size = batch_size
        self.device = devices.device(device, "localize.encoder_options.device")
        self.revision = revision
        self._chosen = (pooling, normalize)

    @cached_property
    def layout(self) -> Layout:
        """How the vectors are made: the model's own layout, except for options that were set.

        Raises:
            ModelUnavailableError: the model's layout is not supported.
        """
        own = read_layout(self.model, lambda name: models.file(self.model, name, self.revision or "main"))
        found = own or Layout()
        pooling, normalize = self._chosen
        if pooling is not None:
            found = found._replace(pooling=(pooling,))
        if normalize is not None:
            maps = tuple(layer for layer in found.layers if layer is not None)
            found = found._replace(layers=(*maps, None) if normalize else maps)
        return found

    @property
    def pooling(self) -> str:
        """The pooling, such as `mean` or `cls+mean`."""
        return "+".join(self.layout.pooling)

    @cached_property
    def dim(self) -> int:
        """E, from the model's configuration; does not load weights."""
        width = int(self._config.get_text_config().hidden_size) * len(self.layout.pooling)
        for layer in self.layout.layers:
            if layer is not None:
                width = min(width, layer) if isinstance(layer, int) else layer.width
        return width

    @cached_property
    def fingerprint(self) -> str:
        """The model's content hash or commit and every setting that changes a vector; loads no weights."""
        folder = Path(self.model)
        if folder.is_dir():
            origin = f"sha256:{models.content(folder)}"
        else:
            origin = f"{self.model}@{models.commit(self.model, self.revision or 'main')}"
        unit = "unit" if self.layout.layers[-1:] == (None,) else "raw"
        return f"{origin}, {self.pooling} pooling, {unit} length, {self.max_length} tokens"

    def encode(self, texts: Sequence[str]) -> Tensor:
        """float32 (len(texts), E) on the CPU, in the order of `texts`.

        Equal texts are encoded once, and texts of similar length together, to save padding.

        Raises:
            ModelUnavailableError: the weights cannot be loaded.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        if not distinct:
            return torch.zeros(0, self.dim)
        starts = range(0, len(distinct), self.batch_size)
        vectors = torch.cat([self._encode_batch(distinct[s : s + self.batch_size]) for s in starts])
        row = {text: i for i, text in enumerate(distinct)}
        return vectors[[row[text] for text in texts]]

    def _encode_batch(self, texts: list[str]) -> Tensor:
        network, tokenizer, layout = self._network, self._tokenizer, self.layout
        texts = [layout.prompt + (text.lower() if layout.lower else text) for text in texts]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=self._length, return_tensors="pt")
        batch = batch.to(self.device)
        with torch.no_grad():
            states = network(**batch).last_hidden_state  # (b, tokens, hidden)
            vectors = pool(states, batch["attention_mask"].bool(), layout.pooling)
            for layer in self._layers:
                vectors = layer(vectors)
        result: Tensor = vectors.float().cpu()
        return result

    @cached_property
    def _layers(self) -> list[Callable[[Tensor], Tensor]]:
        return [_step(layer, self.device) for layer in self.layout.layers]

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self._load(AutoConfig.from_pretrained)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = self._load(AutoTokenizer.from_pretrained, padding_side="right")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModel

        # safetensors only: the older weight format is pickle, which can execute code
        network, found = self._load(
            AutoModel.from_pretrained, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        unused = ("decoder.", "pooler.") if network.config.is_encoder_decoder else ("pooler.",)
        missing = [name for name in sorted(found["missing_keys"]) if not any(part in name for part in unused)]
        if missing:  # transformers would initialise them randomly
            reason = f"{len(missing)} of its weights are in none of its files, {missing[0]} for one"
            raise _unavailable(self.model, ValueError(reason))
        if network.config.is_encoder_decoder:
            network = network.get_encoder()
        return network.eval().requires_grad_(False).to(self.device)

    @cached_property
    def _length(self) -> int:
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        own = (self._tokenizer.model_max_length, positions, self.layout.max_length)
        return int(min(self.max_length, *(length for length in own if length)))

    def _load(self, loader: Callable[..., Any], **options: Any) -> Any:
        """What `loader` makes of the model: from this machine if it is here, else from the hub."""
        from safetensors import SafetensorError

        options |= {"revision": self.revision or "main", "subfolder": self.layout.folder}
        unusable = (OSError, ValueError, KeyError, ImportError, SafetensorError)
        here = _is_folder(self.model)
        try:
            with models.quiet():
                return loader(self.model, local_files_only=True, **options)
        except unusable as error:
            if here:
                raise _unavailable(self.model, error) from error
        try:
            models.probe(self.model, options["revision"])
            return loader(self.model, **options)
        except Exception as error:  # HTTP clients have error trees of their own
            raise _unavailable(self.model, error) from error


MAP = ("linear.weight", "linear.bias")
"""Tensors of a linear map."""

bert = partial(TransformersEncoder, model="bert-base-uncased")
"""The paper's encoder (Eqs. 1 and 2), or a copy of it in the folder `model`."""


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def _step(layer: Dense | int | None, device: str) -> Callable[[Tensor], Tensor]:
    """What a layer does to vectors (B, E).

    Raises:
        StoreError: the file of its weights is damaged.
        ModelUnavailableError: a tensor is missing, or one is not understood.
    """
    if layer is None:
        return _unit
    if isinstance(layer, int):
        return lambda vectors: vectors[:, :layer]
    tensors = {name: one.float().to(device) for name, one in store.read_tensors(layer.weights).items()}
    names = {"linear.weight", "linear.bias", "residual.weight"} if layer.residual else set(MAP)
    if "linear.weight" not in tensors or tensors.keys() - names:
        raise ModelUnavailableError(f"{layer.weights}: its tensors are {', '.join(sorted(tensors))}")
    weight, bias, beside = (tensors.get(name) for name in (*MAP, "residual.weight"))
    assert weight is not None
    if layer.residual and beside is None and weight.shape[0] != weight.shape[1]:
        raise ModelUnavailableError(f"{layer.weights}: residual.weight is missing")
    activation: Callable[[Tensor], Tensor] = getattr(torch.nn, layer.activation)()

    def apply(vectors: Tensor) -> Tensor:
        found = activation(linear(vectors, weight, bias))
        if not layer.residual:
            return found
        return found + (vectors if beside is None else linear(vectors, beside))

    return apply


def _is_folder(model: str) -> bool:
    """Whether `model` means a folder: it exists, or it does not look like a hub name."""
    return Path(model).is_dir() or model.startswith((".", "/")) or Path(model).is_absolute()


def _unavailable(model: str, error: Exception) -> ModelUnavailableError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if not Path(model).is_dir():
        reason = "no such folder" if _is_folder(model) else f"no such folder, and from the hub {reason}"
    return ModelUnavailableError(
        f"the text encoder {model!r} cannot be loaded ({reason}); give a folder that has it, "
        "--encoder transformers:FOLDER, or use one that works offline, --encoder embedded"
    )
