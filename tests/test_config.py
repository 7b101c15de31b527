from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llm4sbr.config import (
    Config,
    build,
    flatten,
    merge,
    nest,
    parse_set,
    read_toml,
    to_settings,
    to_toml,
)
from llm4sbr.config.types import AMOUNT, without_defaults
from llm4sbr.errors import ConfigError

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.lists(text, min_size=1, max_size=3, unique=True)
scalars = st.one_of(text, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False))
options = st.dictionaries(text, st.one_of(scalars, st.lists(scalars, max_size=2)), max_size=3)
amount = st.from_regex(AMOUNT, fullmatch=True)
chosen = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries(
            {},
            optional={
                "path": st.sampled_from(["logs", "/a b/c.csv", "ä/ö"]),
                "options": options,
                "sessions": st.sampled_from(["session", "user", "gap", "bins"]),
                "gap_seconds": st.floats(min_value=1e-6, max_value=1e12),
                "sample": st.floats(min_value=1e-6, max_value=1),
                "strict": st.booleans(),
            },
        ),
        "infer": st.fixed_dictionaries({}, optional={"llm": text, "perspectives": names, "budget": amount}),
        "train": st.fixed_dictionaries(
            {}, optional={"dim": st.integers(1, 2**30), "l2": st.floats(0, 1e9), "options": options}
        ),
        "evaluate": st.fixed_dictionaries(
            {}, optional={"k": st.lists(st.integers(1), min_size=1, max_size=4, unique=True)}
        ),
    },
)
dotted = st.dictionaries(
    st.from_regex(r"[a-c]{1,2}(\.[a-c]{1,2}){0,2}", fullmatch=True), st.integers(), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(chosen)
def test_every_value_survives_toml(given: dict[str, Any]) -> None:
    config = build(given)
    assert build(tomllib.loads(to_toml(to_settings(config)))) == config
    assert build(tomllib.loads(to_toml(given))) == config


@settings(max_examples=60, deadline=None)
@given(dotted)
def test_nesting_and_flattening_are_inverse(flat: dict[str, int]) -> None:
    prefixes = {key for key in flat for other in flat if other.startswith(f"{key}.")}
    flat = {key: value for key, value in flat.items() if key not in prefixes}
    assert flatten(nest(flat)) == flat


@settings(max_examples=60, deadline=None)
@given(dotted, dotted, dotted)
def test_merging_is_associative_and_the_empty_layer_changes_nothing(
    first: dict[str, int], second: dict[str, int], third: dict[str, int]
) -> None:
    a, b, c = nest(first), nest(second), nest(third)
    assert merge(merge(a, b), c) == merge(a, b, c)
    assert merge(a, {}) == merge({}, a) == a


def test_later_layers_win_key_by_key() -> None:
    low = {"train": {"dim": 8, "epochs": 2}, "infer": {"llm": "a"}}
    config = build(low, {"train": {"dim": 16}}, parse_set(["train.dim=32"]))
    assert (config.train.dim, config.train.epochs, config.infer.llm) == (32, 2, "a")
    assert low["train"] == {"dim": 8, "epochs": 2}, "layers are not changed"


def test_defaults_need_nothing_and_cannot_be_changed() -> None:
    assert build() == Config()
    with pytest.raises(ValidationError, match="frozen"):
        build().train.dim = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("train.dim=128", {"train": {"dim": 128}}),
        ("train.learning_rate = 1e-3", {"train": {"learning_rate": 0.001}}),
        ("data.strict=true", {"data": {"strict": True}}),
        ("evaluate.k=[5, 10]", {"evaluate": {"k": [5, 10]}}),
        ('infer.llm="quoted"', {"infer": {"llm": "quoted"}}),
        ("infer.llm=transformers:some/model", {"infer": {"llm": "transformers:some/model"}}),
        ("data.path=/logs/a=b.csv", {"data": {"path": "/logs/a=b.csv"}}),
        ("data.options.user=user id", {"data": {"options": {"user": "user id"}}}),
        ("infer.budget=", {"infer": {"budget": "default"}}),
    ],
)
def test_set_takes_toml_values_and_plain_text(assignment: str, expected: dict[str, Any]) -> None:
    assert parse_set([assignment]) == expected


def test_set_takes_the_last_of_two_and_keeps_the_rest() -> None:
    assert parse_set(["train.dim=1", "train.tau=0", "train.dim=2"]) == {"train": {"dim": 2, "tau": 0}}


@pytest.mark.parametrize("assignment", ["train.dim", "=3", "  =3", ""])
def test_set_without_key_or_value_shows_how_it_is_written(assignment: str) -> None:
    with pytest.raises(ConfigError, match=r"expected section\.key=value, for instance --set train\.dim=128"):
        parse_set([assignment])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": {"dmi": 3}}, "train.dmi: no such setting (did you mean train.dim?)"),
        ({"trian": {"dim": 3}}, "trian: no such setting (did you mean train?)"),
        ({"dim": 3}, "dim: no such setting (did you mean train.dim?)"),
        (
            {"data": {"prefixes": "all"}},
            "data.prefixes: is two settings now: data.train_prefixes, what is trained",
        ),
        ({"train": {"zzzzzzzz": 3}}, "train.zzzzzzzz: no such setting (llm4sbr config --show lists all)"),
        ({"train": {"dim": 0}}, "train.dim = 0: input should be greater than or equal to 1"),
        ({"train": {"dim": "wide"}}, "train.dim = 'wide': input should be a valid integer"),
        ({"train": {"l2": float("inf")}}, "train.l2 = inf: input should be a finite number"),
        ({"train": {"l2": float("nan")}}, "train.l2 = nan: input should be"),
        ({"data": {"sessions": "days"}}, "data.sessions = 'days': input should be 'session', 'user'"),
        (
            {"infer": {"perspectives": "long,short"}},
            """a valid tuple, for instance infer.perspectives=["long", "short"]""",
        ),
        ({"evaluate": {"k": [5, "ten"]}}, "evaluate.k.1 = 'ten': input should be a valid integer"),
        ({"train": 5}, "train = 5: "),
        ({"train": 5}, "this is a section, set one of its keys"),
    ],
)
def test_wrong_setting_is_one_line_with_key_and_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_every_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"infer\.lm: no such setting \(.*\); train\.dim = 0: "):
        build({"train": {"dim": 0}, "infer": {"lm": "x"}})


def test_settings_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[infer]\nllm = "embedded"\n', encoding="utf-8")
    assert read_toml(file) == {"infer": {"llm": "embedded"}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"[train]\ndim = \n", "at line 2, column 7"),
        (b"llm = '\xff'", "codec can't decode byte 0xff"),
    ],
)
def test_settings_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_toml(file)
    assert str(error.value).startswith(f"{file}: cannot read settings: ")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("evaluate.k=[]", "evaluate.k = []: at least one is needed"),
        ("evaluate.k=[5, 0]", "evaluate.k = [5, 0]: a list has at least one item"),
        ("evaluate.k=[5, 5]", "evaluate.k = [5, 5]: something is named twice"),
        ("infer.perspectives=[]", "infer.perspectives = []: at least one is needed"),
        ('infer.perspectives=["long", "long"]', "infer.perspectives = ['long', 'long']: something is named"),
        ("data.seed=-1", "data.seed = -1: input should be greater than or equal to 0"),
        (f"train.seed={10**21}", f"train.seed = {10**21}: input should be less than"),
        (f"data.max_length={10**21}", f"data.max_length = {10**21}: input should be less than"),
        (f"train.batch_size={10**21}", f"train.batch_size = {10**21}: input should be less than"),
        ("infer.budget=true", "infer.budget = True: input should be a valid string"),
    ],
)
def test_values_that_would_fail_hours_later_are_refused_now(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(parse_set([assignment]))
    assert str(caught.value).startswith(message)


def test_a_budget_may_be_a_number() -> None:
    assert build(parse_set(["infer.budget=20000"])).infer.budget == "20000"


def test_a_choice_can_be_taken_back() -> None:
    chosen = {"data": {"sessions": "default", "sample": None, "options": {"item": "default", "user": "u"}}}
    assert without_defaults(chosen) == {"data": {"options": {"user": "u"}}}


def test_values_of_python_become_those_of_toml() -> None:
    chosen = {"data": {"max_length": np.int64(5), "path": Path("a"), "options": {"attributes": ("x",)}}}
    assert without_defaults(chosen) == {
        "data": {"max_length": 5, "path": "a", "options": {"attributes": ["x"]}}
    }
    with pytest.raises(ConfigError, match=r"perspectives = {'long'}: expected text, a number"):
        without_defaults({"infer": {"perspectives": {"long"}}})
