from __future__ import annotations

from collections.abc import Callable

import pytest

from llm4sbr import registry
from llm4sbr.protocols import Localizer
from llm4sbr.testing.localizers import LocalizerContract

NAMES = [component.name for component in registry.components("localizers")]


@pytest.mark.parametrize("name", NAMES)
class TestLocalizers(LocalizerContract):
    create: Callable[[int], Localizer]

    @pytest.fixture(autouse=True)
    def _create(self, name: str) -> None:
        self.create = lambda f: registry.create("localizers", name, f=f)  # type: ignore[no-any-return]


def test_the_built_in_is_registered() -> None:
    assert "nearest" in NAMES
