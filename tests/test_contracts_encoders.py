from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm4sbr import registry
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.protocols import Encoder
from llm4sbr.testing.encoders import EncoderContract, tiny_bert

NAMES = [component.name for component in registry.components("encoders")]
ANY_MODEL = ("bert", "transformers")
"""Encoders that take whatever model they are given; here a tiny one, as nothing is downloaded."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.mark.parametrize(
    "name", [name if name in ANY_MODEL else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
class TestEncoders(EncoderContract):
    create: Callable[[], Encoder]

    @pytest.fixture(autouse=True)
    def _create(self, name: str, folder: Path) -> None:
        options: dict[str, Any] = {"model": folder} if name in ANY_MODEL else {}
        self.create = lambda: registry.create("encoders", name, **options)  # type: ignore[no-any-return]
        try:
            self.create().encode(["a text"])
        except ModelUnavailableError as error:
            pytest.skip(str(error))


def test_the_built_ins_are_registered() -> None:
    assert set(ANY_MODEL) <= set(NAMES)
