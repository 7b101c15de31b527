"""Components chosen by settings: options go with their component, and wrong ones reach no file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from llm4sbr import pipeline
from llm4sbr.config import nest, read_toml
from llm4sbr.config.components import added
from llm4sbr.errors import RegistryError
from llm4sbr.option_types import wrong_types
from llm4sbr.testing.toy import toy_log


class Takes:
    def __init__(
        self,
        number: int = 1,
        share: float = 0.5,
        path: str | Path | None = None,
        names: Sequence[str] = (),
        mode: Literal["a", "b"] = "a",
        on: bool = False,
        free: Any = None,
        **more: Any,
    ) -> None: ...


def untyped(number, *, other=None): ...


def foreign(number: Unknown, share: int = 1): ...  # noqa: F821


WRONG = [
    {"number": "16"},
    {"number": True},
    {"number": 1.5},
    {"share": "0.5"},
    {"path": 5},
    {"names": "abc"},
    {"on": "yes"},
    {"on": 1},
]


@pytest.mark.parametrize("options", WRONG)
def test_a_value_of_another_type_is_found(options):
    assert wrong_types(Takes, options).keys() == options.keys()
    assert wrong_types(partial(Takes, mode="b"), options)


RIGHT = {"number": 3, "share": 1, "path": "x", "names": ["a"], "mode": "c", "on": True, "free": 1, "more": 2}


def test_what_fits_or_cannot_be_told_passes():
    assert not wrong_types(Takes, RIGHT)
    assert not wrong_types(untyped, {"number": "x"})
    assert not wrong_types(foreign, {"share": "x"})


def test_options_go_with_the_component_that_they_were_for():
    before = nest({"infer.llm": "openai:a", "infer.options": {"price": [1, 2]}, "infer.budget": "5"})
    other = added(before, nest({"infer.llm": "embedded", "infer.options.batch_size": 4}))
    assert other == nest({"infer.llm": "embedded", "infer.options.batch_size": 4, "infer.budget": "5"})
    same = added(before, nest({"infer.llm": "openai:b"}))
    assert same["infer"]["options"] == {"price": [1, 2]}
    assert added(before, {"train": {"dim": 8}})["infer"] == before["infer"]
    assert before["infer"]["options"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"infer.llm": "transformers:x", "infer.options.colour": 1}, "no option 'colour'"),
        ({"infer.llm": "transformers:x", "infer.options.batch_size": "many"}, "option batch_size = 'many'"),
        ({"localize.localizer": "title", "localize.options.near": 1}, "no option 'near'"),
        ({"train.options.layers": 3}, "no option 'layers'"),
        ({"engine.options.workers": 2}, "no option 'workers'"),
    ],
)
def test_options_that_cannot_be_taken_are_not_recorded(tmp_path, settings, message):
    toy_log(tmp_path / "toy")
    run = tmp_path / "run"
    first = nest({"data.reader": "csv", "data.path": str(tmp_path / "toy")})
    pipeline.execute(run, first, until="prepare")
    files = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(RegistryError, match=message):
        pipeline.execute(run, nest(settings), until="prepare")
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == files
    assert read_toml(run / "config.toml").keys() == {"data"}
