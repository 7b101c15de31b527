"""The contract of baselines, and options out of range."""

from __future__ import annotations

import pytest

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Catalogue
from llm4sbr.testing.baselines import BaselineContract
from llm4sbr.testing.toy import toy_catalogue

RERANKERS = ["list-wise", "pair-wise", "point-wise", "zero-shot-rating", "llamarec"]


class TestListWise(BaselineContract):
    name = "list-wise"


class TestPairWise(BaselineContract):
    name = "pair-wise"


class TestPointWise(BaselineContract):
    name = "point-wise"


class TestZeroShotRating(BaselineContract):
    name = "zero-shot-rating"


class TestLlamaRec(BaselineContract):
    name = "llamarec"


class TestGPT4Rec(BaselineContract):
    name = "gpt4rec"


def made(name, items=9, **options):
    return registry.create("baselines", name, num_items=items, **options)


@pytest.mark.parametrize("name", RERANKERS)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"candidates": 27}, "candidates = 27: a prompt holds 2 to 26, one per letter"),
        ({"candidates": 1}, "candidates = 1: a prompt holds 2 to 26"),
        ({"history": 0}, "history = 0: must be at least 1"),
        ({"retriever": "llmseqsim"}, "retriever = 'llmseqsim' ranks by texts or asks an LLM"),
        ({"retriever": "gpt4rec"}, "retriever = 'gpt4rec' ranks by texts or asks an LLM"),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_one_line(name, options, said):
    with pytest.raises(ConfigError, match=rf"^{name}: {said}"):
        made(name, **options)


@pytest.mark.parametrize("name", RERANKERS)
def test_more_candidates_than_items_are_refused(name):
    with pytest.raises(ConfigError, match=rf"^{name}: candidates = 10: the catalogue has 9$"):
        made(name).fit_catalogue(toy_catalogue(9), repeats=False)


@pytest.mark.parametrize(
    "option", [{"queries": 0}, {"k": 0}, {"history": 0}, {"k1": -1.0}, {"b": 1.5}], ids=str
)
def test_gpt4rec_options(option):
    with pytest.raises(ConfigError, match=rf"^gpt4rec: .*{next(iter(option))} = "):
        made("gpt4rec", **option)


def test_an_empty_index_is_one_line():
    with pytest.raises(ConfigError, match=r"^gpt4rec: no item has a title with a word in it"):
        made("gpt4rec", items=2).fit_catalogue(Catalogue(["a", "b"], ["", "--"]), repeats=False)
