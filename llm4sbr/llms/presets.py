"""Named LLMs: models from the hub, or a copy of one in a folder with `--set infer.options.model=FOLDER`."""

from __future__ import annotations

from functools import partial

from llm4sbr.llms.transformers import TransformersLLM

__all__ = ["Llama31_8B", "Qwen3_8B", "Qwen7B", "Qwen25_7B", "SmolLM2_1_7B", "SmolLM2_135M"]

CHATML = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "<|im_start|>assistant\n"
)
"""The chat template of Qwen-7B-Chat, whose tokenizer has none."""

Qwen7B = partial(TransformersLLM, model="Qwen/Qwen-7B-Chat", chat_template=CHATML)
"""The paper's LLM (section 3.2.2). It runs code shipped with the model, hence `trust_remote_code=true`."""

Qwen25_7B = partial(TransformersLLM, model="Qwen/Qwen2.5-7B-Instruct")
Qwen3_8B = partial(TransformersLLM, model="Qwen/Qwen3-8B")
Llama31_8B = partial(TransformersLLM, model="meta-llama/Llama-3.1-8B-Instruct")
SmolLM2_135M = partial(TransformersLLM, model="HuggingFaceTB/SmolLM2-135M-Instruct")
SmolLM2_1_7B = partial(TransformersLLM, model="HuggingFaceTB/SmolLM2-1.7B-Instruct")
