"""Writes an export folder whose recommendations are known, without training and without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from llm4sbr.serving.artefact import FORMAT
from llm4sbr.serving.attributes import ATTRIBUTES, Attributes
from llm4sbr.serving.items import ITEMS, write_items
from llm4sbr.serving.predicted import TITLES, write_titles
from llm4sbr.testing.toy import toy_catalogue

LONGEST = 7
"""Maximum number of clicks."""

TEXT = 4
"""E."""


def toy_export(
    folder: Path,
    *,
    items: int = 20,
    k: int = 5,
    step: int = 1,
    intents: bool = False,
    predictor: bool = False,
) -> Path:
    """Write an export folder and return it.

    After item i the model recommends i + step, i + 2 step ... (mod N), with the scores N, N - 1 ... With
    `intents`, the sum of a session's intents is added to every score. With `predictor`, the predicted intent
    of `long` is the title vector of item i + step, and that of `short` the title vector of item i.

    Args:
        folder: created if missing.
        items: N.
        k: K.
        step: must have no common divisor with N.
        intents: whether intents are an input of the model.
        predictor: whether the model predicts intents.
    """
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = toy_catalogue(items)
    variant = "intents" if intents else "predictor" if predictor else "plain"
    perspectives = ["long", "short"] if intents or predictor else []
    facts: dict[str, Any] = {"fingerprint": f"toy-{step}", "catalogue": "toy", "variant": variant}
    facts |= {"k": k, "num_items": items, "max_length": LONGEST}
    model = _model(items, k, step, intents)
    names = ["model.onnx", ITEMS, ATTRIBUTES]
    if predictor:
        _add_intents(model, titles(items), step)
        write_titles(folder, titles(items))
        names.append(TITLES)
    helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
    onnx.save(model, folder / "model.onnx")
    write_items(folder / ITEMS, catalogue)
    toy_attributes(items).write(folder / ATTRIBUTES)
    record = facts | {"format": FORMAT, "kind": "onnx", "precision": "fp32", "perspectives": perspectives}
    record |= {"text_dim": TEXT if perspectives else 0, "verified": {}, "versions": {}}
    required = [one.name for one in model.graph.input if one.name != "allowed"]
    record |= {"inputs": {key: {} for key in required}, "outputs": {}}
    record["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "artefact.json").write_text(json.dumps(record))
    return folder


def toy_attributes(items: int) -> Attributes:
    """Item i has its `category`, the `price` i, and i clicks; those with an even id are `in_stock`."""
    ids = np.arange(1, items + 1)
    found = Attributes.of({**toy_catalogue(items).attributes, "price": [str(id) for id in ids]}, ids)
    return Attributes(found.columns, ids, {"in_stock": ids % 2 == 0})


def titles(items: int) -> NDArray[np.float32]:
    """Title vectors float32 (N, E) on a circle, so that items i - 1 and i + 1 are most similar to item i."""
    angles = 2 * np.pi * np.arange(items) / items
    return np.stack([np.cos(angles), np.sin(angles), 0 * angles, 0 * angles], 1).astype(np.float32)


def _add_intents(model: onnx.ModelProto, vectors: NDArray[np.float32], step: int) -> None:
    """Add the output `intents`, float32 (B, 2, E), to the graph."""
    table = np.stack([np.roll(vectors, -step, 0), vectors], 1)
    model.graph.initializer.append(numpy_helper.from_array(table, "intent_table"))
    model.graph.node.append(helper.make_node("GatherND", ["intent_table", "row"], ["intents"]))
    model.graph.output.append(helper.make_tensor_value_info("intents", TensorProto.FLOAT, ["B", 2, TEXT]))


def _model(items: int, k: int, step: int, intents: bool) -> onnx.ModelProto:
    """The graph: score N - ((j - i) / step - 1 mod N) of item j after the last click i, then the K best."""
    constants = {
        "places": np.arange(items) * pow(step, -1, items) - 1,
        "turns": np.array([pow(step, -1, items)]),
        "N": np.array([items]),
        "one": np.array([1]),
        "zero": np.array([0]),
        "k": np.array([k]),
        "allowed": np.zeros((1, 1), np.float32),
        "lowest": np.array([-np.inf], np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["mask"], ["ones"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["ones", "one"], ["lengths"], keepdims=1),
        helper.make_node("Sub", ["lengths", "one"], ["last"]),
        helper.make_node("GatherElements", ["items", "last"], ["clicked"], axis=1),
        helper.make_node("Sub", ["clicked", "one"], ["row"]),
        helper.make_node("Mul", ["row", "turns"], ["turned"]),
        helper.make_node("Sub", ["places", "turned"], ["steps"]),
        helper.make_node("Mod", ["steps", "N"], ["rank"]),
        helper.make_node("Sub", ["N", "rank"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["known"], to=TensorProto.FLOAT),
        *_with_intents(intents),
        helper.make_node("Slice", ["items", "zero", "one", "one"], ["first"]),
        helper.make_node("Add", ["all", "allowed"], ["open to all"]),
        helper.make_node("Greater", ["items", "zero"], ["clicks"]),
        helper.make_node("Where", ["clicks", "items", "first"], ["filled"]),
        helper.make_node("Sub", ["filled", "one"], ["seen"]),
        helper.make_node("GatherElements", ["open to all", "seen"], ["own"], axis=1),
        helper.make_node("Where", ["exclude_seen", "lowest", "own"], ["left"]),
        helper.make_node("ScatterElements", ["open to all", "seen", "left"], ["open"], axis=1),
        helper.make_node("TopK", ["open", "k"], ["scores", "best"]),
        helper.make_node("Add", ["best", "one"], ["ids"]),
        helper.make_node("Equal", ["scores", "lowest"], ["none"]),
        helper.make_node("Where", ["none", "zero", "ids"], ["item_ids"]),
    ]
    inputs = [
        helper.make_tensor_value_info("items", TensorProto.INT64, ["B", "T"]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["B", "T"]),
        helper.make_tensor_value_info("exclude_seen", TensorProto.BOOL, ["B", 1]),
    ]
    inputs.append(helper.make_tensor_value_info("allowed", TensorProto.FLOAT, ["filters", "filtered"]))
    if intents:
        inputs.append(helper.make_tensor_value_info("intents", TensorProto.FLOAT, ["B", 2, TEXT]))
    outputs = [
        helper.make_tensor_value_info("item_ids", TensorProto.INT64, ["B", k]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", k]),
    ]
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _with_intents(intents: bool) -> list[onnx.NodeProto]:
    if not intents:
        return [helper.make_node("Identity", ["known"], ["all"])]
    return [
        helper.make_node("Flatten", ["intents"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "one"], ["sums"], keepdims=1),
        helper.make_node("Add", ["known", "sums"], ["all"]),
    ]
