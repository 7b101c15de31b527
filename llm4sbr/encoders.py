"""Text encoders: any transformers model whose token states are pooled into one vector per text.

The paper encodes answers and item names with bert-base-uncased (Eqs. 1 and 2) and does not say how the
token states become one vector. Mean pooling is the default here, because the CLS state of a BERT that was
never trained on sentence pairs tells titles apart poorly; `pooling = "cls"` takes that state instead.
Vectors are scaled to length 1 unless `normalize = false`, so that long and short texts weigh the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from llm4sbr import hub, registry
from llm4sbr.errors import ConfigError, ModelUnavailableError
from llm4sbr.protocols import Encoder

Pooling = Literal["mean", "cls"]

SAMPLED = 64
"""Places at which a large weight file is sampled for the fingerprint of a local folder."""


class TransformersEncoder:
    """Vectors of texts from any transformers encoder; weights are loaded when the first text comes.

    Args:
        model: a folder, or the name of a model on the hub.
        pooling: `mean` of the token states that are no padding, or the first state, `cls`.
        normalize: scale every vector to length 1.
        max_length: tokens of a text that count; the rest is cut off.
        batch_size: texts encoded at once.
        device: `cpu`, `cuda`, `cuda:1`; `auto` takes a GPU if there is one.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: a `pooling` that does not exist, or a size below 1.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        pooling: Pooling = "mean",
        normalize: bool = True,
        max_length: int = 64,
        batch_size: int = 128,
        device: str = "auto",
        revision: str | None = None,
    ) -> None:
        if pooling not in ("mean", "cls"):
            raise ConfigError(f"localize.encoder_options.pooling = {pooling!r}: expected 'mean' or 'cls'")
        if max_length < 1 or batch_size < 1:
            raise ConfigError("localize.encoder_options: max_length and batch_size must be at least 1")
        self.model = os.path.expanduser(model)
        self.pooling = pooling
        self.normalize = normalize
        self.max_length = max_length
        self.batch_size = batch_size
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self.revision = revision

    @cached_property
    def dim(self) -> int:
        """E, from the model's configuration; no weights are loaded."""
        return int(self._config.get_text_config().hidden_size)

    @cached_property
    def fingerprint(self) -> str:
        """The model's content or commit and everything that changes a vector; no weights are loaded."""
        folder = Path(self.model)
        if folder.is_dir():
            origin = f"sha256:{_folder_hash(folder)}"
        else:
            commit = getattr(self._config, "_commit_hash", None) or self.revision or "main"
            origin = f"{self.model}@{commit}"
        length = "unit" if self.normalize else "raw"
        return f"{origin}, {self.pooling} pooling, {length} length, {self.max_length} tokens"

    def encode(self, texts: Sequence[str]) -> Tensor:
        """float32 (len(texts), E) on the CPU, in the order of `texts`.

        Equal texts are encoded once, and texts of similar length together, so that little padding is needed.

        Raises:
            ModelUnavailableError: the weights cannot be had here.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        if not distinct:
            return torch.zeros(0, self.dim)
        starts = range(0, len(distinct), self.batch_size)
        vectors = torch.cat([self._encode_batch(distinct[s : s + self.batch_size]) for s in starts])
        row = {text: i for i, text in enumerate(distinct)}
        return vectors[[row[text] for text in texts]]

    def _encode_batch(self, texts: list[str]) -> Tensor:
        network, tokenizer = self._network, self._tokenizer
        batch = tokenizer(texts, padding=True, truncation=True, max_length=self._length, return_tensors="pt")
        batch = batch.to(self.device)
        with torch.no_grad():
            states = network(**batch).last_hidden_state  # (b, tokens, E)
            if self.pooling == "cls":
                vectors = states[:, 0]
            else:
                mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
                vectors = (states * mask).sum(1) / mask.sum(1).clamp_min(1)
            if self.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=-1)
        result: Tensor = vectors.float().cpu()
        return result

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

        # safetensors only: the older weight format is pickle, which can run code
        network = self._load(AutoModel.from_pretrained, use_safetensors=True, dtype=torch.float32)
        if network.config.is_encoder_decoder:
            network = network.get_encoder()
        return network.eval().requires_grad_(False).to(self.device)

    @cached_property
    def _length(self) -> int:
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        most = (self.max_length, self._tokenizer.model_max_length, positions or self.max_length)
        return int(min(most))

    def _load(self, loader: Callable[..., Any], **options: Any) -> Any:
        """What `loader` makes of the model: from this machine if it is here, else from the hub."""
        from safetensors import SafetensorError

        options |= {"revision": self.revision or "main"}
        unusable = (OSError, ValueError, KeyError, ImportError, SafetensorError)
        here = _is_folder(self.model)
        try:
            with hub.quiet():
                return loader(self.model, local_files_only=True, **options)
        except unusable as error:
            if here:
                raise _unavailable(self.model, error) from error
        try:
            hub.probe(self.model, options["revision"])
            return loader(self.model, **options)
        except Exception as error:  # HTTP clients have error trees of their own
            raise _unavailable(self.model, error) from error


def bert(
    *,
    model: str | Path = "bert-base-uncased",
    pooling: Pooling = "mean",
    normalize: bool = True,
    max_length: int = 64,
    batch_size: int = 128,
    device: str = "auto",
    revision: str | None = None,
) -> TransformersEncoder:
    """The paper's encoder, bert-base-uncased (Eqs. 1 and 2), or a copy of it in the folder `model`."""
    return TransformersEncoder(
        model,
        pooling=pooling,
        normalize=normalize,
        max_length=max_length,
        batch_size=batch_size,
        device=device,
        revision=revision,
    )


def encoding(name: str, options: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    """The work with an installed encoder, made where it is done."""
    encode: Callable[[list[str]], Tensor] = registry.create("encoders", name, **options).encode
    return encode


class Memo:
    """An encoder that encodes each distinct line of text once in its life, for texts that come back.

    A text of several lines names several things; its vector has the direction of the mean of its lines'
    vectors, and their mean length. So answers that list items cost no more than the items.

    Args:
        encoder: does the work.
        advance: called with the number of lines whenever some were really encoded.
        block: lines handed to `encoder` at once.
        limit: bytes of vectors remembered; beyond that, new lines are encoded each time they come.
        work: encodes blocks of lines, in their order; by default `encoder` does, here.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        advance: Callable[[int], None] = lambda n: None,
        block: int = 256,
        limit: int = 2**31,
        work: Callable[[Iterable[list[str]]], Iterator[Tensor]] | None = None,
    ) -> None:
        self.work = work or partial(map, encoder.encode)
        self.fingerprint = encoder.fingerprint
        self.dim = encoder.dim
        self.advance = advance
        self.block = block
        self.room = limit // (4 * encoder.dim)
        self._known: dict[str, Tensor] = {}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """float32 (len(texts), E); texts of one line as the wrapped encoder gives them."""
        parts = [text.split("\n") for text in texts]
        vectors = self._lines([line for lines in parts for line in lines])
        if len(vectors) == len(texts):
            return vectors
        count = torch.tensor([len(lines) for lines in parts])
        whole = torch.arange(len(texts)).repeat_interleave(count)
        sums = torch.zeros(len(texts), self.dim).index_add_(0, whole, vectors)
        lengths = torch.zeros(len(texts)).index_add_(0, whole, vectors.norm(dim=1))
        # the length of a sum of n vectors becomes the mean of theirs; a single line is left as it is
        scale = torch.where(count > 1, lengths / count / sums.norm(dim=1).clamp_min(1e-12), 1.0)
        return sums * scale.unsqueeze(1)

    def _lines(self, lines: Sequence[str]) -> Tensor:
        if not lines:
            return torch.zeros(0, self.dim)
        fresh: dict[str, Tensor] = {}
        # longest first: blocks of like length need little padding, and what is left goes faster, not slower
        missing = sorted({line for line in lines if line not in self._known}, key=lambda t: (-len(t), t))
        parts = [missing[start : start + self.block] for start in range(0, len(missing), self.block)]
        for part, vectors in zip(parts, self.work(parts), strict=True):
            fresh |= zip(part, vectors.unbind(), strict=True)
            self.advance(len(part))
        if len(self._known) + len(fresh) <= self.room:
            self._known |= fresh
        return torch.stack([fresh[line] if line in fresh else self._known[line] for line in lines])


def _is_folder(model: str) -> bool:
    """Whether `model` is meant as a folder: it is one, or no hub name looks like it."""
    return Path(model).is_dir() or model.startswith((".", "/")) or Path(model).is_absolute()


def _unavailable(model: str, error: Exception) -> ModelUnavailableError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    if not Path(model).is_dir():
        reason = "no such folder" if _is_folder(model) else f"no such folder, and from the hub {reason}"
    return ModelUnavailableError(
        f"the text encoder {model!r} cannot be loaded ({reason}); give a folder that has it, "
        "--encoder transformers:FOLDER, or use one that works offline, --encoder embedded"
    )


def _folder_hash(folder: Path) -> str:
    """sha256 over a model folder: small files whole, large ones by size, head and samples throughout.

    A 400 MB file costs a few milliseconds, and a model fine-tuned in place is still told apart.
    """
    digest = hashlib.sha256()
    names = [path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model", ".safetensors")]
    for path in sorted(names):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as stream:
            if size <= 2**20:
                digest.update(stream.read())
                continue
            for i in range(SAMPLED):
                stream.seek(size * i // SAMPLED)
                digest.update(stream.read(4096))
    return digest.hexdigest()[:16]
