"""Heads, operators, ahead-of-time compilation, Triton's configuration, engines' keys.

What is proved here without a GPU is that TensorRT-RTX compiles graphs for SM80, no more.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from llm4sbr import registry
from llm4sbr.data.batches import sample_keys
from llm4sbr.errors import DeviceError, ExportError, StoreError
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.store import write_json
from llm4sbr.testing.exporters import HORIZONS, TEXT_DIM, toy_inputs, toy_model, toy_spec
from llm4sbr.verification import Reference, verify
from llm4sbr_export import engine
from llm4sbr_export.checks import Shapes, check_operators, compile_ahead, objections
from llm4sbr_export.graph import Graph
from llm4sbr_export.heads import COARSE, Candidates, Exact, without
from llm4sbr_export.onnx import Onnx, write
from llm4sbr_export.triton import ENGINE_NAME, NAME, Triton

RTX = pytest.mark.skipif(not importlib.util.find_spec("tensorrt_rtx"), reason="needs the extra rtx")
PROFILE = Shapes(64, 50)


# Heads


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.booleans())
def test_only_what_was_clicked_is_left_out_and_only_if_asked(session, exclude):
    scores = torch.arange(9.0).unsqueeze(0)
    clicked = torch.tensor([session]) - 1
    found = without(scores, clicked, torch.tensor([[exclude]]))[0]
    for item in range(1, 10):
        expected = -torch.inf if exclude and item in session else float(item - 1)
        assert found[item - 1] == expected


@pytest.mark.parametrize("precision", COARSE)
def test_candidates_give_the_exact_list(precision):
    """Of 5,000 items the first pass keeps a few; the list and its scores are those of float32."""
    torch.manual_seed(0)
    exact = Exact([torch.randn(5000, 24), torch.randn(5000, 8)])
    queries = [torch.randn(16, 24) * 0.01, torch.randn(16, 8) * 0.01]
    clicked, exclude = torch.randint(5000, (16, 3)), torch.ones(16, 1, dtype=torch.bool)
    largest = max(float(query.abs().max()) for query in queries)
    head = Candidates(exact, precision, k=20, query_range=largest)
    assert head.count == {"int8": 64, "fp16": 64, "qdq": 200}[precision]
    values, rows = head(queries, clicked, exclude, 20)
    best, expected = exact(queries, clicked, exclude, 20)
    assert torch.equal(rows, expected)
    torch.testing.assert_close(values, best)


def test_integers_do_not_depend_on_company():
    """A session with tiny numbers is rounded by its own scale, whoever else is in the batch."""
    torch.manual_seed(0)
    first = Candidates(Exact([torch.randn(500, 16)]), "int8", k=5).first
    small, large = torch.randn(1, 16) * 1e-4, torch.randn(1, 16) * 1e4
    torch.testing.assert_close(first(torch.cat([small, large]))[:1], first(small))


def test_a_zero_query_is_no_number_problem():
    head = Candidates(Exact([torch.randn(500, 16)]), "int8", k=5)
    values, _ = head([torch.zeros(1, 16)], torch.zeros(1, 1, dtype=torch.long), torch.tensor([[False]]), 5)
    assert (values == 0).all()


# Verification


class Fixed:
    provider = "cpu"

    def __init__(self, change=lambda ids, scores: (ids, scores)):
        self.change = change

    def score(self, *, items, mask, exclude_seen):
        full = SCORES.expand(len(items), -1)
        if exclude_seen.any():
            full = full.scatter(1, torch.where(mask, items, items[:, :1]) - 1, -torch.inf)
        best = full.topk(3)
        return self.change(best.indices + 1, best.values)


SCORES = torch.tensor([[5.0, 4.0, 3.0, 3.0, 1.0, 0.5, 0.25, 0.0]])


def judged(change, *, exact=True):
    sessions = Sessions(torch.tensor([8, 7, 1, 8, 6, 2]), torch.tensor([0, 3, 6]))
    start, end = torch.tensor([0, 3]), torch.tensor([2, 5])
    samples = Samples(start, end, sample_keys(sessions, start, end))
    reference = Reference(
        lambda inputs: SCORES.expand(len(inputs["items"]), -1),
        lambda batch: {"items": batch.items, "mask": batch.mask},
    )
    return verify(Fixed(change), reference, sessions=sessions, samples=samples, k=3, exact=exact)


def test_an_equal_artefact_passes():
    found = judged(lambda ids, scores: (ids, scores))
    assert (found["lists"], found["lists_that_agree"], found["max_difference"]) == (2, 2, 0)
    assert found["metrics"]["HR@3"]["trained"] == 1.0  # targets 1 and 2 stand first and second
    assert found["metrics"]["MRR@3"]["trained"] == 0.75


def test_items_that_tie_stand_for_each_other():
    """Items 3 and 4 score the same, so a list that ends with either is right."""
    for tied in (3, 4):
        swapped = judged(
            lambda ids, scores, tied=tied: (
                torch.where(torch.isin(ids, torch.tensor([3, 4])), tied, ids),
                scores,
            )
        )
        assert swapped["lists_that_agree"] == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda ids, scores: (ids, scores + 0.01), "scores differ by up to 0.002"),
        (lambda ids, scores: (ids, scores * torch.nan), "scores differ by up to inf"),
        (lambda ids, scores: (torch.where(ids == 3, 5, ids).where(ids != 4, 5), scores), "scores differ"),
        (lambda ids, scores: (ids[:, [0, 0, 2]], scores[:, [0, 0, 2]]), "only 0.00% of the lists agree"),
    ],
)
def test_other_answers_fail(change, text):
    with pytest.raises(ExportError, match=text):
        judged(change)


# Operators


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


# TensorRT-RTX, ahead of time


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
@pytest.mark.parametrize("precision", ["fp32", "fp16", "qdq"])
def test_tensorrt_rtx_compiles_the_graph_for_sm80(tmp_path, precision):
    made = Graph(toy_model(), k=5, variant="intents", precision=precision, query_range=1.0)
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
            write(Graph(model, k=5, variant=variant, precision="fp16"), path, about={})
            compile_ahead(path, PROFILE)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_exports_and_tensorrt_rtx_compiles_it_for_sm80(tmp_path, backbone):
    exported_and_compiled(tmp_path, "plain", backbone=backbone, fuser=None)
    for variant in ("intents", "predictor"):
        exported_and_compiled(tmp_path, variant, backbone=backbone, half=variant == "predictor")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fuser", FUSERS)
def test_every_fuser_exports_and_tensorrt_rtx_compiles_it_for_sm80(tmp_path, fuser):
    for variant in ("intents", "predictor", "none"):
        exported_and_compiled(tmp_path, variant, fuser=fuser, half=variant == "predictor")


@pytest.mark.slow
@RTX
@pytest.mark.skipif(not importlib.util.find_spec("polygraphy"), reason="needs polygraphy")
def test_polygraphy_finds_nothing_to_complain_about(tmp_path):
    path = tmp_path / "model.onnx"
    write(Graph(toy_model(), k=5, variant="intents"), path, about={})
    command = [str(Path(sys.executable).with_name("polygraphy"))]
    environment = os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    for arguments in (["inspect", "model"], ["inspect", "capability"]):
        done = subprocess.run(
            [*command, *arguments, str(path)], env=environment, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "fully supported" in (done.stdout + done.stderr).lower()


# Triton


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    inputs = toy_inputs([[1, 2, 3], [4]], "intents")
    Triton(provider="cpu").export(toy_model(), inputs, folder / "model.triton", spec=toy_spec("intents"))
    return folder


@pytest.mark.parametrize(("name", "file"), [(NAME, "model.onnx"), (ENGINE_NAME, "model.plan")])
def test_configuration_is_what_triton_reads(repository, name, file):
    """Parsed by Triton's own protobuf schema; shapes and types are those of the graph beside it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    text_format = pytest.importorskip("google.protobuf.text_format")
    folder = repository / "models" / name
    config = text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())
    assert (config.name, config.default_model_filename, config.max_batch_size) == (name, file, 8)
    inputs = {one.name: (one.data_type, list(one.dims)) for one in config.input}
    assert inputs["items"] == (schema.TYPE_INT64, [-1])
    assert inputs["exclude_seen"] == (schema.TYPE_BOOL, [1])
    assert inputs["intents"] == (schema.TYPE_FP32, [len(HORIZONS), TEXT_DIM])
    assert {one.name: list(one.dims) for one in config.output} == {"item_ids": [5], "scores": [5]}
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 4, 8]
    assert config.parameters["fingerprint"].string_value == "f"
    loaded = onnx.load(folder / "1" / "model.onnx")
    assert {one.name for one in loaded.graph.input} == set(inputs)
    sizes = {schema.TYPE_INT64: 8, schema.TYPE_BOOL: 1, schema.TYPE_FP32: 4}
    for warmup in config.model_warmup:
        for one in warmup.inputs.values():
            data = (folder / "warmup" / one.input_data_file).read_bytes()
            assert len(data) == int(np.prod(one.dims)) * sizes[one.data_type]


def test_scripts_of_the_repository(repository):
    for script in (repository / "docker.sh", repository / "models" / ENGINE_NAME / "1" / "trtexec.sh"):
        assert os.access(script, os.X_OK)
        subprocess.run(["sh", "-n", str(script)], check=True)
    compile((repository / "client.py").read_text(), "client.py", "exec")


# Engines


def keyed(tmp_path: Path) -> tuple[Path, engine.Key]:
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    key = engine.Key("hash", "11.4.0", "NVIDIA A100, SM80", "fp16", tuple(PROFILE))
    write_json(path.with_name(engine.KEY), key._asdict() | {"engine": engine.store.file_sha256(path)})
    return path, key


def test_an_engine_is_taken_only_if_every_part_of_its_key_matches(tmp_path):
    path, key = keyed(tmp_path)
    assert engine.mismatch(path, key) == ""
    assert engine.made_for(path) == ("fp16", PROFILE)
    others = {
        "onnx": "other",
        "tensorrt": "11.5.0",
        "gpu": "NVIDIA H100, SM90",
        "precision": "fp32",
        "profile": (1,),
    }
    for part, other in others.items():
        assert engine.mismatch(path, key._replace(**{part: other})).startswith(f"{part} is")
    path.write_bytes(b"another")
    assert engine.mismatch(path, key) == "its file has changed"
    path.unlink()
    assert engine.mismatch(path, key) == "there is no engine with a key"


def test_a_key_that_says_nothing_is_an_error(tmp_path):
    path, _ = keyed(tmp_path)
    path.with_name(engine.KEY).write_text("{}")
    with pytest.raises(StoreError, match="not an engine's key"):
        engine.made_for(path)


def test_without_a_gpu_there_is_no_key(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(DeviceError, match="no NVIDIA GPU"):
        engine.Key.here(tmp_path / "model.onnx", precision="fp32", shapes=PROFILE)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device and the extra tensorrt")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_answers_as_the_model_and_is_rebuilt_when_its_key_differs(tmp_path, precision):
    pytest.importorskip("tensorrt")
    exporter = registry.create("exporters", "tensorrt")
    path = tmp_path / "model.engine"
    inputs = toy_inputs([[1, 2, 3], [4]], "intents")
    exporter.export(toy_model(), inputs, path, spec=toy_spec("intents", precision=precision))
    best = toy_model()(inputs["items"], inputs["mask"], inputs["intents"]).topk(5)
    for _ in range(2):
        ids, scores = exporter.load(path).score(**inputs)
        assert torch.equal(ids, best.indices + 1)
        torch.testing.assert_close(scores, best.values, atol=1e-3, rtol=1e-3)
        path.write_bytes(b"not an engine")  # its hash is part of the key: the second round builds it again
