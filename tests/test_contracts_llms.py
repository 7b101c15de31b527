from __future__ import annotations

from pathlib import Path

import pytest

from llm4sbr import registry
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.protocols import is_control
from llm4sbr.testing.llms import ControlContract, LLMContract, tiny_llama

NAMES = [c.name for c in registry.components("llms") if c.package == registry.CORE]
"""Ours; what a plugin needs to answer, its own tests know."""
CONTROLS = ("item-text", "shuffled", "none")
PRESETS = ("qwen-7b", "qwen2.5-7b", "qwen3-8b", "llama-3.1-8b", "smollm2-135m", "smollm2-1.7b")
ANY_MODEL = ("transformers", *PRESETS)
"""LLMs that take whatever model they are given; here a tiny one, as nothing is downloaded."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*CONTROLS, "recorded")])
class TestLLMs(LLMContract):
    @pytest.fixture(autouse=True)
    def _create(self, name: str, folder: Path) -> None:
        llm = registry.create("llms", name, model=folder)
        self.create = lambda: llm


@pytest.mark.parametrize("name", [name for name in NAMES if name in CONTROLS])
class TestControls(ControlContract):
    @pytest.fixture(autouse=True)
    def _create(self, name: str) -> None:
        self.create = lambda: registry.create("llms", name)


def test_the_built_ins_are_registered() -> None:
    assert {*ANY_MODEL, *CONTROLS} <= set(NAMES)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_without_its_model_is_one_line(name, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    llm = registry.create("llms", name)
    assert not is_control(llm)
    with pytest.raises(ModelUnavailableError) as caught:
        llm.generate(["a prompt"])
    message = str(caught.value)
    assert "\n" not in message
    assert "--llm transformers:FOLDER" in message
    assert "--llm embedded" in message
