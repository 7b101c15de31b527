"""The contract over every installed exporter."""

from __future__ import annotations

import pytest

from llm4sbr import registry
from llm4sbr.testing.exporters import ExporterContract

pytest.importorskip("onnxscript", reason="needs the extra onnx")

for _component in registry.components("exporters"):
    _title = "Test" + _component.name.title()
    _marks = [] if _component.name == "onnx" else [pytest.mark.slow]  # the others write the same graph
    globals()[_title] = type(_title, (ExporterContract,), {"name": _component.name, "pytestmark": _marks})


def test_there_are_some() -> None:
    assert {"onnx", "tensorrt", "triton"} <= {c.name for c in registry.components("exporters")}
