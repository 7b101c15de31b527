"""The contracts of LLMs and of controls; subclass one of them in a plugin's tests.

class TestMine(LLMContract):
create = staticmethod(lambda: MyLLM(model=tiny_llama(folder)))
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path

from llm4sbr.perspectives import Long, Short
from llm4sbr.protocols import LLM, Control, Item, is_control
from llm4sbr.testing.contract import Contract, optional

PROMPTS = [
    "Name a lamp.",
    "The order in which users click on items is as follows:\n1. Red Lamp_1\n2. Oak Chair_2\nGuess one.",
    "Ünïcödé 日本 and <|im_end|> and </s> are text like any other.",
    "Name a lamp.",
]

ITEMS = [Item(i, f"k{i}", f"Title {i}", {"category": f"c{i}"}) for i in range(1, 5)]
SESSIONS = [ITEMS[:1], ITEMS[:2], ITEMS, ITEMS[2:]]


def tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """Save a two-layer Llama with random weights and a byte tokenizer, for the LLM `transformers:FOLDER`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: i for i, token in enumerate(["<|end|>", "<|user|>", *letters])}
    plain = Tokenizer(models.BPE(vocab=words, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=plain, eos_token="<|end|>", additional_special_tokens=["<|user|>"]
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>You answer. {{ m.content }}<|end|>{% endfor %}Answer: "
    )
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=0,
        bos_token_id=None,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class LLMContract(Contract, kind="llms"):
    """Tests of one LLM."""

    create: Callable[[], LLM]
    """Creates the LLM; its weights must be on this machine."""

    def test_satisfies_the_protocol(self) -> None:
        """It has the members of the protocol, not those of a control, and a constant fingerprint."""
        llm = self.create()
        assert isinstance(llm, LLM), "needs fingerprint and generate"
        assert not is_control(llm), "has a method `answer`, which makes it a control"
        assert isinstance(llm.fingerprint, str), "fingerprint must be text"
        assert llm.fingerprint, "the fingerprint is empty"
        assert llm.fingerprint == self.create().fingerprint, "created twice, it has two fingerprints"

    def test_one_answer_per_prompt(self) -> None:
        """There is one text per prompt, and none for an empty list."""
        llm = self.create()
        answers = llm.generate(PROMPTS)
        assert len(answers) == len(PROMPTS), f"{len(PROMPTS)} prompts got {len(answers)} answers"
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            assert isinstance(answer, str), f'{prompt!r} got {answer!r}; without an answer, return ""'
        assert llm.generate([]) == []

    def test_prompts_stay_as_they_are(self) -> None:
        """`generate` does not modify the list of prompts."""
        prompts = list(PROMPTS)
        self.create().generate(prompts)
        assert prompts == PROMPTS, "generate changed the list of prompts"

    @optional("repeatable")
    def test_an_answer_belongs_to_its_prompt(self) -> None:
        """Answers are in the order of the prompts: a prompt's answer alone is most similar to its own."""
        llm = self.create()
        together = llm.generate(PROMPTS)
        for place in (1, 2):
            (alone,) = llm.generate([PROMPTS[place]])
            like = [SequenceMatcher(None, alone, answer, autojunk=False).ratio() for answer in together]
            best = max(range(len(like)), key=like.__getitem__)
            message = f"the answer to prompt {place}, {alone!r}, comes at place {best} of {together}"
            assert like[place] == like[best], message

    @optional("repeatable")
    def test_repeatable(self) -> None:
        """The same prompts in the same order get the same answers again."""
        llm = self.create()
        for prompt, one, other in zip(PROMPTS, llm.generate(PROMPTS), llm.generate(PROMPTS), strict=True):
            assert one == other, f"{prompt!r} got two answers"


class ControlContract(Contract, kind="llms"):
    """Tests of one control."""

    create: Callable[[], Control]
    """Creates the control."""

    def test_satisfies_the_protocol(self) -> None:
        """It has the members of the protocol, not those of an LLM, and a fingerprint."""
        control = self.create()
        assert is_control(control), "needs fingerprint and a method `answer`"
        assert not isinstance(control, LLM), "has a method `generate`, which makes it an LLM"
        assert control.fingerprint, "the fingerprint is empty"

    def test_one_answer_per_session(self) -> None:
        """There is one text per session for every perspective, and a second call gives the same texts."""
        answers = ["a", "b", "", "d"]
        for perspective in (Long(), Short()):
            given = self.create().answer(SESSIONS, perspective, list(answers))
            assert len(given) == len(SESSIONS), f"{len(SESSIONS)} sessions got {len(given)} answers"
            assert all(isinstance(text, str) for text in given), 'without an answer, return ""'
            again = self.create().answer(SESSIONS, perspective, list(answers))
            assert given == again, "a second call gave other answers"
            assert self.create().answer([], perspective, []) == []
