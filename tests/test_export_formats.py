"""Operators, and compiling ahead of time: TensorRT-RTX compiles graphs for SM80; no more is proved here."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from llm4sbr import registry
from llm4sbr.errors import ExportError
from llm4sbr.testing.exporters import toy_inputs, toy_model, toy_spec
from llm4sbr_export.checks import Shapes, check_operators, compile_ahead, objections
from llm4sbr_export.graph import Graph
from llm4sbr_export.onnx import INPUTS, Onnx, write

RTX = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="needs the extra rtx")
PROFILE = Shapes(64, 50)


def graph(path: Path, nodes, *, constants=(), opset=20) -> Path:
    inputs = [helper.make_tensor_value_info("items", TensorProto.FLOAT, ["batch", "length"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    made = helper.make_graph(nodes, "g", inputs, outputs, list(constants))
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def unique(path: Path) -> Path:
    return graph(path, [helper.make_node("Unique", ["items"], ["y"])])


def topk(path: Path, k: int) -> Path:
    node = helper.make_node("TopK", ["items", "k"], ["y", "i"])
    return graph(path, [node], constants=[helper.make_tensor("k", TensorProto.INT64, [1], [k])])


def test_operators_that_tensorrt_has_not_are_named(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match="TensorRT does not take operator Unique"):
        check_operators(unique(path))
    check_operators(path, allowed=["Unique"])
    assert list(objections(topk(path, 3840))) == []
    assert list(objections(topk(path, 5000))) == ["TopK with K = 5000 (at most 3840)"]
    assert list(objections(graph(path, [helper.make_node("Relu", ["items"], ["y"])], opset=21))) == [
        "opset 21"
    ]
    foreign = graph(path, [helper.make_node("Gelu", ["items"], ["y"], domain="com.microsoft")])
    assert list(objections(foreign)) == ["operator com.microsoft::Gelu"]


def test_operators_of_inner_graphs_are_seen(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Unique", ["items"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    path = graph(
        tmp_path / "m.onnx", [node], constants=[helper.make_tensor("c", TensorProto.BOOL, [], [True])]
    )
    assert set(objections(path)) == {"operator Unique"}


@RTX
def test_what_cannot_be_compiled_is_said(tmp_path):
    path = tmp_path / "model.onnx"
    good = graph(tmp_path / "good.onnx", [helper.make_node("Relu", ["items"], ["y"])])
    assert len(compile_ahead(good, PROFILE)) > 1000
    with pytest.raises(ExportError, match="cannot parse it"):
        compile_ahead(unique(path), PROFILE)
    with pytest.raises(ExportError, match="K exceeds the maximum value allowed"):
        compile_ahead(topk(path, 5000), Shapes(64, 6000, 8, 6000))
    with pytest.raises(ExportError, match="refuses the profile"):
        compile_ahead(good, Shapes(0, 50))


@RTX
@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(one, marks=pytest.mark.slow) for one in ("fp16", "qdq"))]
)
def test_tensorrt_rtx_compiles_the_graph_for_sm80(tmp_path, precision):
    made = Graph(toy_model(), k=5, intent_mode="intents", precision=precision, query_range=1.0)
    write(made, tmp_path / "model.onnx", about={})
    assert list(objections(tmp_path / "model.onnx")) == []
    assert len(compile_ahead(tmp_path / "model.onnx", PROFILE)) > 1000


BACKBONES = [c.name for c in registry.components("backbones") if c.package == registry.CORE]
FUSERS = [c.name for c in registry.components("fusers") if c.package == registry.CORE]


def exported_and_compiled(folder: Path, variant: str, *, half: bool = False, **options) -> None:
    """Export, compare in ONNX Runtime at other shapes, and compile, in half precision too if asked."""
    model = toy_model(**options)
    path = folder / f"{variant}.onnx"
    Onnx().export(model, {}, path, spec=toy_spec(variant))
    scorer = Onnx(provider="cpu").load(path)
    for sessions in ([[3]], [[1, 2, 3], [4]], [list(range(1, 20))] * 7, [[7, 7, 2, 7], [30]]):
        inputs = toy_inputs(sessions, variant)
        ids, scores = scorer.score(**inputs)
        predict = variant == "predictor"
        full = model(inputs["items"], inputs["mask"], inputs.get("intents"), predict=predict)
        torch.testing.assert_close(scores, full.topk(5).values, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(full.gather(1, ids - 1), scores, atol=1e-4, rtol=1e-4)
    if importlib.util.find_spec("tensorrt_rtx"):
        compile_ahead(path, PROFILE)
        if half and not hasattr(model.backbone, "score"):
            write(Graph(model, k=5, intent_mode=variant, precision="fp16"), path, about={})
            compile_ahead(path, PROFILE)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_exports_and_tensorrt_rtx_compiles_it_for_sm80(tmp_path, backbone):
    """With predicted intents, the default; how other graphs differ does not depend on the backbone."""
    exported_and_compiled(tmp_path, "predictor", backbone=backbone, half=True)
    if backbone == "sr-gnn":
        exported_and_compiled(tmp_path, "plain", backbone=backbone, fuser=None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fuser", FUSERS)
def test_every_fuser_exports_and_tensorrt_rtx_compiles_it_for_sm80(tmp_path, fuser):
    for variant in ("intents", "predictor", "none"):
        exported_and_compiled(tmp_path, variant, fuser=fuser, half=variant == "predictor")


@pytest.mark.parametrize("fuser", FUSERS)
def test_a_graph_is_traced_in_the_first_way(fuser):
    """torch's exporter has a second one, which fails for a process's second graph (`gru4rec`, `whitened`)."""
    graph = Graph(toy_model(fuser=fuser), k=5, intent_mode="predictor").eval()
    free = {name: dict.fromkeys(INPUTS[name], torch.export.Dim.DYNAMIC) for name in graph.example()}
    torch.export.export(graph, (), kwargs=graph.example(), dynamic_shapes=free, strict=False)


@pytest.mark.slow
@RTX
@pytest.mark.skipif(not importlib.util.find_spec("polygraphy"), reason="needs polygraphy")
def test_polygraphy_finds_nothing_to_complain_about(tmp_path):
    path = tmp_path / "model.onnx"
    write(Graph(toy_model(), k=5, intent_mode="intents"), path, about={})
    command = [str(Path(sys.executable).with_name("polygraphy"))]
    environment = os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    for arguments in (["inspect", "model"], ["inspect", "capability"]):
        done = subprocess.run(
            [*command, *arguments, str(path)], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "fully supported" in (done.stdout + done.stderr).lower()
