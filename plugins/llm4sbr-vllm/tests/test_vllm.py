"""With a stand-in for vLLM: the calls and what is done with the answers, not vLLM itself."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from llm4sbr_vllm import VLLM

from llm4sbr.errors import ConfigError, ModelUnavailableError, UnansweredError
from llm4sbr.testing.llms import LLMContract, tiny_llama


class SamplingParams:
    def __init__(self, *, temperature: float, max_tokens: int) -> None:
        self.temperature, self.max_tokens = temperature, max_tokens


class LLM:
    """`vllm.LLM` as far as it is used: greedy decoding of token ids."""

    made: list[dict[str, Any]] = []

    def __init__(self, *, model: str, **engine: Any) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        LLM.made.append({"model": model, **engine})
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.network = AutoModelForCausalLM.from_pretrained(model)

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    @torch.inference_mode()
    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: Any, *, use_tqdm: bool
    ) -> list[Any]:
        assert sampling_params.temperature == 0.0
        found = []
        for prompt in prompts:
            ids = prompt["prompt_token_ids"]
            whole = self.network.generate(
                torch.tensor([ids]),
                max_new_tokens=sampling_params.max_tokens,
                do_sample=False,
                pad_token_id=0,
            )
            text = self.tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True)
            found.append(types.SimpleNamespace(outputs=[types.SimpleNamespace(text=text)]))
        return found


@pytest.fixture(autouse=True)
def stand_in(monkeypatch) -> None:
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("llama") / "model")


class TestVLLM(LLMContract):
    @pytest.fixture(autouse=True)
    def _create(self, folder: Path) -> None:
        self.create = lambda: VLLM(str(folder), max_new_tokens=4)


def test_the_engine_is_started_once_with_prefix_caching(folder):
    LLM.made.clear()
    llm = VLLM(str(folder), tensor_parallel_size=2, engine={"enforce_eager": True}, max_new_tokens=2)
    assert llm.fingerprint.startswith("vllm, ")
    assert LLM.made == []  # a fingerprint needs no engine
    llm.generate(["a"])
    llm.generate(["b"])
    assert len(LLM.made) == 1
    assert LLM.made[0]["enable_prefix_caching"]
    assert (LLM.made[0]["tensor_parallel_size"], LLM.made[0]["enforce_eager"]) == (2, True)


def test_without_vllm_the_pip_command_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelUnavailableError, match="pip install vllm"):
        VLLM(str(folder)).generate(["a"])


def test_an_engine_that_cannot_start_is_one_line(folder, monkeypatch):
    def fail(**engine: Any) -> None:
        raise RuntimeError("Failed to infer\ndevice type")

    monkeypatch.setattr(sys.modules["vllm"], "LLM", fail)
    with pytest.raises(ModelUnavailableError, match="Failed to infer device type") as caught:
        VLLM(str(folder)).generate(["a"])
    assert "\n" not in str(caught.value)


def test_prompts_without_room_cost_no_other_answer(folder):
    llm = VLLM(str(folder), max_model_len=60, max_new_tokens=4)
    with pytest.raises(UnansweredError, match="max_model_len leaves room for 56") as caught:
        llm.generate(["a", "x" * 200, "b"])
    assert caught.value.answers == [*llm.generate(["a"]), None, *llm.generate(["b"])]
    with pytest.raises(UnansweredError):
        llm.generate(["x" * 200])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\n\n Red Lamp\nIt is red.", "Red Lamp"),
        ("Sure:\n\nRed Lamp\nIt is red.", "Sure:\n\nRed Lamp"),
        ("", ""),
        ("Sure:", "Sure:"),
    ],
)
def test_an_answer_ends_with_its_first_line(folder, monkeypatch, text, answer):
    said = types.SimpleNamespace(outputs=[types.SimpleNamespace(text=text)])
    monkeypatch.setattr(LLM, "generate", lambda *_, **__: [said])
    assert VLLM(str(folder)).generate(["a"]) == [answer]


def test_sizes_are_checked():
    with pytest.raises(ConfigError):
        VLLM("m", batch_size=0)
