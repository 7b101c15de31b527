from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from llm4sbr import registry
from llm4sbr.protocols import Perspective
from llm4sbr.testing.perspectives import PerspectiveContract

NAMES = [component.name for component in registry.components("perspectives")]


@pytest.mark.parametrize("name", NAMES)
class TestPerspectives(PerspectiveContract):
    create: Callable[..., Perspective]

    @pytest.fixture(autouse=True)
    def _create(self, name: str) -> None:
        self.create = partial(registry.create, "perspectives", name)


def test_the_built_ins_are_registered() -> None:
    assert {"long", "short", "normal"} <= set(NAMES)
