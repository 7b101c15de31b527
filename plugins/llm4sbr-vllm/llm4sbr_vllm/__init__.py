"""vLLM's offline engine as an LLM: continuous batching and prefix caching on GPUs.

Written for the API of vLLM 0.33 (`LLM.generate` with token ids, `SamplingParams`). It has not been run with
vLLM itself, which needs a GPU: the tests use a replacement with the same signatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llm4sbr.errors import ConfigError, ModelUnavailableError, UnansweredError
from llm4sbr.llms.chat import Chat
from llm4sbr.llms.weights import WeightFiles

__all__ = ["VLLM"]


class VLLM:
    """Answers prompts with vLLM in this process; the engine starts at the first prompt.

    Args:
        model: a folder or the name of a model on the hub.
        revision: branch, tag or commit on the hub.
        dtype: of weights and activations: `auto`, `bfloat16`, `float16`, `float32`.
        quantization: `awq`, `gptq`, `fp8` ... if the model's files do not say it.
        max_new_tokens: maximum length of an answer in tokens; it also ends at its first line break.
        max_model_len: maximum tokens of prompt and answer; a smaller value than the model's saves memory.
        tensor_parallel_size: GPUs that share one copy of the model.
        gpu_memory_utilization: share of each GPU's memory to use.
        batch_size: prompts per call. vLLM batches them itself, so many are fast; a killed process loses the
            prompts of its current call.
        chat_template: a Jinja template, for a chat model without one.
        trust_remote_code: allow code that comes with the model to run.
        engine: further arguments of `vllm.LLM`.

    Raises:
        ConfigError: a size below 1.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        quantization: str | None = None,
        max_new_tokens: int = 24,
        max_model_len: int = 2048,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        batch_size: int = 1024,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
        engine: dict[str, Any] | None = None,
    ) -> None:
        if min(max_new_tokens, max_model_len, tensor_parallel_size, batch_size) < 1:
            raise ConfigError("infer.options: sizes of the vllm LLM must be at least 1")
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self._weights = WeightFiles(model, revision=revision, trust_remote_code=trust_remote_code)
        self._template = chat_template
        self._precision = f"{dtype}{f', {quantization}' if quantization else ''}"
        self._engine = {
            "model": model,
            "revision": revision,
            "dtype": dtype,
            "quantization": quantization,
            "max_model_len": max_model_len,
            "tensor_parallel_size": tensor_parallel_size,
            "gpu_memory_utilization": gpu_memory_utilization,
            "trust_remote_code": trust_remote_code,
            "enable_prefix_caching": True,
            "seed": 0,
            **(engine or {}),
        }

    @cached_property
    def fingerprint(self) -> str:
        """The model's content and every setting that changes an answer; does not start the engine.

        Raises:
            ModelUnavailableError: the model is neither on this machine nor on the hub.
        """
        template = f", template {self._template!r}" if self._template else ""
        return (
            f"vllm, {self._weights.identity}, {self._precision}, greedy, one line, "
            f"{self.max_new_tokens} tokens{template}"
        )

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """One answer per prompt, in the order of `prompts`.

        Raises:
            ModelUnavailableError: vLLM is not installed, or cannot load the model here.
            UnansweredError: some prompts are longer than `max_model_len`; it carries the others' answers.
        """
        if not prompts:
            return []
        engine, chat, settings = self._started
        rows = [chat.tokens(prompt) for prompt in prompts]
        longest = int(self._engine["max_model_len"]) - self.max_new_tokens
        # One prompt that is too long would make vLLM reject all prompts of the call.
        fitting = [index for index, row in enumerate(rows) if len(row) <= longest]
        given = [{"prompt_token_ids": rows[index]} for index in fitting]
        found = engine.generate(given, settings, use_tqdm=False) if given else []
        texts = [_first_line(str(one.outputs[0].text)) for one in found]
        if len(fitting) == len(rows):
            return texts
        answers = dict(zip(fitting, texts, strict=True))
        raise UnansweredError(
            f"a prompt has {max(map(len, rows)):,} tokens, infer.options.max_model_len leaves room for "
            f"{longest:,} besides the answer",
            [answers.get(index) for index in range(len(rows))],
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text."""
        tokenizer = self._started[1].tokenizer
        return [len(tokenizer(text, add_special_tokens=False).input_ids) for text in texts]

    @cached_property
    def _started(self) -> tuple[Any, Chat, Any]:
        try:
            from vllm import LLM, SamplingParams
        except ImportError as error:
            raise ModelUnavailableError(f"vLLM cannot be imported ({error}); pip install vllm") from None
        try:
            engine = LLM(**self._engine)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelUnavailableError(
                f"vLLM cannot load {self._engine['model']!r} here ({reason}); it needs a GPU with enough "
                "memory, see infer.options.max_model_len and gpu_memory_utilization"
            ) from None
        # Do not stop at a line break: many models begin with one, before any text.
        settings = SamplingParams(temperature=0.0, max_tokens=self.max_new_tokens)
        return engine, Chat.of(engine.get_tokenizer(), self._template), settings


def _first_line(text: str) -> str:
    """The first line with text, as with `transformers:`; a line that ends with a colon is continued."""
    lines = text.strip().splitlines() or [""]
    count = next((number for number, line in enumerate(lines, 1) if line.strip()[-1:] not in (":", "")), None)
    return "\n".join(lines[:count]).strip()
