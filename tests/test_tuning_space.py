"""The space that is searched: declared by the components, changed by the user, checked before use."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("optuna")

from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.config import TrainConfig, build
from llm4sbr.config.space import Choice, Span, declared, given, words
from llm4sbr.errors import ConfigError, RegistryError
from llm4sbr.testing.backbones import BackboneContract
from llm4sbr.tuning.space import in_force, search_space


def test_a_space_is_declared_in_plain_values() -> None:
    tunes = {"a": [1, 2], "b": (0.0, 0.5), "c": (1, 8), "d": (1e-4, 1e-2, "log")}
    found = declared(tunes, prefix="train.options")
    assert found == {
        "train.options.a": Choice((1, 2)),
        "train.options.b": Span(0.0, 0.5),
        "train.options.c": Span(1, 8),
        "train.options.d": Span(1e-4, 1e-2, log=True),
    }
    assert [found[f"train.options.{name}"].whole for name in "bcd"] == [False, True, False]  # type: ignore[union-attr]
    texts = [f"{key}={words(one)}" for key, one in found.items()]
    read = given(texts)
    assert read["train.options.d"] == found["train.options.d"]
    assert read["train.options.a"] == found["train.options.a"]
    assert given(["train.fuser_options.x="]) == {"train.fuser_options.x": None}


@pytest.mark.parametrize("wrong", [[], [1, 1], (2, 1), (0.0, 1.0, "log"), (1,), "abc", [[1], [2]], (True, 2)])
def test_what_is_no_space_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"train\.x: .* is no space"):
        declared({"x": wrong}, prefix="train")


def test_train_and_the_components_declare_what_they_take() -> None:
    config = build({"train": {"fuser": "whitened"}})
    space = search_space(config, "llm", {})
    assert {f"train.{name}" for name in TrainConfig.tunes} < set(space)
    assert {"train.options.steps", "train.fuser_options.dropout"} < set(space)
    for key, value in in_force(config, space).items():
        assert space[key].has(value), key
    plain = search_space(config, "plain", {})
    assert not {"train.tau", "train.intent_dropout", "train.fuser_options.dropout"} & set(plain)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.foo=1,2", "train.foo: no such setting"),
        ("train.learnin_rate=0.1..0.2", "did you mean train.learning_rate"),
        ("train.options.foo=1,2", "has no option 'foo'; it takes: .*steps"),
        ("train.options.steps=a,b", "option steps = 'a'"),
        ("train.dim=0,8", "train.dim = 0: input should be greater"),
        ("train.dim=8..1.5", "is no space"),
        ("data.max_length=20,50", "only settings of train can be searched"),
        ("train.backbone=sr-gnn,narm", "compared by llm4sbr experiment, with --vary"),
        ("train.seed=1,2", "does not decide how a model is trained"),
        ("train.epochs=", "is not searched anyway; searched are"),
        ("train.dim", "expected KEY=A,B or KEY=LOW..HIGH"),
    ],
)
def test_a_wrong_space_is_one_line(text: str, said: str) -> None:
    with pytest.raises((ConfigError, RegistryError), match=said):
        search_space(build({}), "llm", given([text]))


class Undeclared(SRGNN):
    """Declares what its constructor does not take."""

    tunes = {"stepz": [1, 2]}


def test_the_contract_finds_a_name_that_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(BackboneContract):
        name = "sr-gnn"

    Mine().test_claims_make_sense()
    monkeypatch.setattr(SRGNN, "tunes", Undeclared.tunes)
    with pytest.raises(RegistryError, match="has no option 'stepz'"):
        Mine().test_claims_make_sense()
