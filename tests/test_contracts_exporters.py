"""The contract over every installed exporter."""

from __future__ import annotations

import pytest

from llm4sbr import registry
from llm4sbr.testing.exporters import ExporterContract

pytest.importorskip("onnxscript", reason="needs the extra onnx")

for _component in registry.components("exporters"):
    _title = "Test" + _component.name.title()
    globals()[_title] = type(_title, (ExporterContract,), {"name": _component.name})


def test_there_are_some() -> None:
    assert {"onnx", "tensorrt", "triton"} <= {c.name for c in registry.components("exporters")}
