"""The contract over every installed baseline; a newly registered one is tested without a change here."""

from __future__ import annotations

from llm4sbr import registry
from llm4sbr.testing.baselines import BaselineContract

for _component in registry.components("baselines"):
    _title = "Test" + "".join(part.title() for part in _component.name.split("-"))
    globals()[_title] = type(_title, (BaselineContract,), {"name": _component.name})


def test_there_are_some() -> None:
    assert any(name.startswith("Test") for name in globals())
