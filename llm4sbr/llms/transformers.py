"""Any causal language model that transformers can load: a folder, a GGUF file, or a name on the hub.

Decoding is greedy, and an answer ends with its first line. Prompts are batched by length. The common prefix
of a batch's prompts (the chat template, the first words) is computed once. In bf16 an answer can depend on
the other prompts of its batch; runs are reproducible because the cached answer is used.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from llm4sbr.errors import ConfigError, UnansweredError
from llm4sbr.llms.chat import Chat
from llm4sbr.llms.weights import WeightFiles
from llm4sbr.system import devices, models

__all__ = ["TransformersLLM"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

MIN_SHARED = 8
"""Minimum length in tokens of a common prefix that is computed separately."""


class TransformersLLM:
    """Answers prompts with a causal language model; weights are loaded at the first prompt.

    Args:
        model: a folder, a `.gguf` file, or the name of a model on the hub.
        revision: branch, tag or commit on the hub.
        dtype: `float32`, `bfloat16`, `float16`; `auto` uses bfloat16 on hardware that is fast at it.
        device: `cpu`, `cuda`, `cuda:1`; `auto` uses a GPU if there is one.
        max_new_tokens: maximum length of an answer in tokens.
        batch_size: maximum number of prompts per batch.
        batch_tokens: maximum number of prompt tokens per batch, padding included.
        chat_template: a Jinja template, for a chat model without one.
        trust_remote_code: allow code that comes with the model to run.

    Raises:
        ConfigError: an unknown `dtype`, or a size below 1.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        device: str = "auto",
        max_new_tokens: int = 24,
        batch_size: int = 32,
        batch_tokens: int = 16_384,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if dtype != "auto" and dtype not in DTYPES:
            raise ConfigError(f"infer.options.dtype = {dtype!r}: expected auto, {', '.join(DTYPES)}")
        if min(max_new_tokens, batch_size, batch_tokens) < 1:
            raise ConfigError("infer.options: max_new_tokens, batch_size and batch_tokens must be at least 1")
        self.device = devices.device(device, "infer.options.device")
        self.dtype = _fast_dtype(self.device) if dtype == "auto" else DTYPES[dtype]
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.chat_template = chat_template
        self._weights = WeightFiles(model, revision=revision, trust_remote_code=trust_remote_code)

    @cached_property
    def fingerprint(self) -> str:
        """The model's content and every setting that changes an answer; loads no weights.

        Raises:
            ModelUnavailableError: the model is neither on this machine nor on the hub.
        """
        template = f", template {self.chat_template!r}" if self.chat_template else ""
        precision = str(self.dtype).removeprefix("torch.")
        return (
            f"{self._weights.identity}, {precision}, greedy, one line, {self.max_new_tokens} tokens{template}"
        )

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in the order of `prompts`.

        Raises:
            ModelUnavailableError: the weights cannot be loaded.
            UnansweredError: some prompts are too long for the model; it carries the others' answers.
        """
        rows = [self._loaded.chat.tokens(prompt) for prompt in prompts]
        limit = self._loaded.positions - self.max_new_tokens
        fitting = [index for index, row in enumerate(rows) if len(row) <= limit]
        answers: list[str | None] = [None] * len(rows)
        for batch in self._batches([rows[index] for index in fitting]):
            indices = [fitting[place] for place in batch]
            for index, text in zip(indices, self._answer([rows[i] for i in indices]), strict=True):
                answers[index] = text
        if len(fitting) < len(rows):
            raise UnansweredError(
                f"a prompt has {max(map(len, rows)):,} tokens, the model has room for {max(limit, 0):,} "
                "beside the answer; fewer infer.max_items make it shorter",
                answers,
            )
        return cast(list[str], answers)

    @torch.inference_mode()
    def next_token_scores(self, prompts: Sequence[str], words: Sequence[str]) -> list[list[float] | None]:
        """Log-probabilities of `words` to come right after each prompt, in one pass; None if it is too long.

        They sum to 1 over the words, whatever else the model might say.

        Raises:
            ConfigError: the tokenizer splits a word into several tokens, or gives two words the same one.
            ModelUnavailableError: the weights cannot be loaded.
        """
        loaded, ids = self._loaded, self._single_tokens(words)
        rows = [loaded.chat.tokens(prompt) for prompt in prompts]
        fitting = [index for index, row in enumerate(rows) if len(row) < loaded.positions]
        found: list[list[float] | None] = [None] * len(rows)
        takes = inspect.signature(loaded.network.forward).parameters
        for batch in self._batches([rows[index] for index in fitting]):
            indices = [fitting[place] for place in batch]
            tokens, mask = _padded([rows[index] for index in indices], 0, loaded.padding)
            more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
            if "position_ids" in takes:
                more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0).to(self.device)
            output = loaded.network(
                input_ids=tokens.to(self.device), attention_mask=mask.to(self.device), **more
            )
            scores = output.logits[:, -1, ids].float().log_softmax(1)
            for index, row in zip(indices, scores.tolist(), strict=True):
                found[index] = row
        return found

    def _single_tokens(self, words: Sequence[str]) -> list[int]:
        tokens = [self._loaded.tokenizer(word, add_special_tokens=False).input_ids for word in words]
        for word, own in zip(words, tokens, strict=True):
            if len(own) != 1 or tokens.count(own) > 1:
                what = (
                    f"splits {word!r} into {len(own)} tokens" if len(own) != 1 else f"does not know {word!r}"
                )
                raise ConfigError(f"the LLM's tokenizer {what}; its next-token scores need one token each")
        return [own[0] for own in tokens]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text."""
        return [len(self._loaded.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]

    @cached_property
    def _loaded(self) -> _Loaded:
        tokenizer, network = self._weights.load(self.dtype)
        return _Loaded.prepared(tokenizer, network.to(self.device), self.chat_template)

    def _batches(self, rows: list[list[int]]) -> Iterator[list[int]]:
        """Row indices, shortest first, in groups within `batch_size` and `batch_tokens`."""
        group: list[int] = []
        for index in sorted(range(len(rows)), key=lambda i: (len(rows[i]), i)):
            full = (len(group) + 1) * len(rows[index]) > self.batch_tokens
            if group and (full or len(group) == self.batch_size):
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    @torch.inference_mode()
    def _answer(self, rows: list[list[int]]) -> list[str]:
        from transformers import GenerationConfig

        loaded = self._loaded
        shared = _shared(rows) if loaded.can_share else 0
        ids, mask = _padded(rows, shared, loaded.padding)
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self.max_new_tokens, pad_token_id=loaded.padding, eos_token_id=loaded.ends
        )
        with models.quiet():
            found = loaded.network.generate(
                input_ids=ids.to(self.device),
                attention_mask=mask.to(self.device),
                generation_config=settings,
                stopping_criteria=[_FirstLine(loaded.breaks, ids.shape[1])],
                **({loaded.cache: self._begun(rows[0][:shared], len(rows))} if shared else {}),
            )
        texts = loaded.tokenizer.batch_decode(found[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _begun(self, prefix: list[int], rows: int) -> Any:
        """The attention cache (key-value cache) after `prefix`, repeated for `rows` rows."""
        from transformers import DynamicCache

        network = self._loaded.network
        cache = DynamicCache(config=network.config)
        ids = torch.tensor([prefix], device=self.device)
        network(ids, logits_to_keep=1, **{self._loaded.cache: cache})
        cache.batch_repeat_interleave(rows)
        return cache


class _Loaded(NamedTuple):
    """A loaded model, and what generation needs to know about it."""

    tokenizer: Any
    network: Any
    chat: Chat
    breaks: Tensor
    """bool (vocabulary,): tokens that contain a line break."""
    padding: int
    ends: list[int]
    can_share: bool
    """Whether a common prefix can be computed separately, with padding after it."""
    cache: str
    """Name of the model's argument for the attention cache; transformers 5.24 renamed it."""
    positions: int
    """Maximum number of tokens of prompt and answer."""

    @classmethod
    def prepared(cls, tokenizer: Any, network: Any, template: str | None) -> _Loaded:
        """Collect these from a loaded model."""
        ends = network.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        ends = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None]
        # Remove the model's own sampling and penalty settings: decoding here is purely greedy.
        network.generation_config = type(network.generation_config)()
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (ends or [0])[0]
        width = max(network.get_input_embeddings().num_embeddings, len(tokenizer))
        breaks = _breaks(tokenizer, width).to(network.device)
        chat = Chat.of(tokenizer, template)
        head = network.get_output_embeddings()
        if head is not None:
            head.register_forward_pre_hook(_closed)
        takes = inspect.signature(network.forward).parameters
        cache = "cache" if "cache" in takes else "past_key_values"
        positions = getattr(network.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
        return cls(tokenizer, network, chat, breaks, padding, ends, _can_share(network), cache, positions)


class _FirstLine:
    """Stopping criterion: the first line break after the beginning of an answer."""

    def __init__(self, breaks: Tensor, begin: int) -> None:
        self.breaks = breaks
        self.begin = begin

    def __call__(self, ids: Tensor, scores: object, **_: object) -> Tensor:
        """Bool (B,): rows that are finished, for token ids int64 (B, prompt + answer)."""
        broken = self.breaks[ids[:, self.begin :]]
        return broken[:, -1] & ~broken.all(dim=1)


def _closed(head: object, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last token's hidden state of each row, (B, 1, D), made contiguous.

    With the strides that slicing leaves, PyTorch's CPU matrix product would copy the output layer's weights
    once per row: half of the time of a batch.
    """
    return given[0].clone(memory_format=torch.contiguous_format), *given[1:]


def _breaks(tokenizer: Any, width: int) -> Tensor:
    """Bool (width,): tokens that contain a line break, except after a colon, which announces the answer."""
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    marks = ("\n", "Ċ", "<0x0A>")  # plain, in byte-level BPE, and in SentencePiece
    found = [bool(name) and any(m in name for m in marks) and ":" not in name for name in names]
    return torch.tensor(found + [False] * (width - len(found)))


def _can_share(network: Any) -> bool:
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    native = type(network).__module__.startswith("transformers.models.")
    if not native or getattr(network, "_is_stateful", False):
        return False
    layers = DynamicCache(config=network.config).layers  # sliding windows would count the padding
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _shared(rows: list[list[int]]) -> int:
    """Length of the rows' common prefix, shorter than any row; 0 if below `MIN_SHARED`."""
    if len(rows) < 2:
        return 0
    equal = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    count = min(sum(1 for _ in equal), min(map(len, rows)) - 1)
    return count if count >= MIN_SHARED else 0


def _padded(rows: list[list[int]], shared: int, padding: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, int64 (B, longest row); the padding follows the first `shared` tokens."""
    width = max(map(len, rows))
    gaps = [width - len(row) for row in rows]
    ids = [row[:shared] + [padding] * gap + row[shared:] for row, gap in zip(rows, gaps, strict=True)]
    mask = [[1] * shared + [0] * gap + [1] * (len(row) - shared) for row, gap in zip(rows, gaps, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def _fast_dtype(device: str) -> torch.dtype:
    """bfloat16 on GPUs and on CPUs with instructions for it; elsewhere it is slower than float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device != "cpu":
        return torch.float32
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32
