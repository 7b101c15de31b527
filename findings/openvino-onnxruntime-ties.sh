#!/usr/bin/env bash
# OpenVINO 2026.4: TopK with sorted=1 gives equal scores in no order that one could name. ONNX asks for the lower index
# first ("uses the indices along the axis as a tiebreaker"), which is what ONNX Runtime 1.32 does. So two engines give two
# lists from one graph wherever scores are tied, as those of items never seen in training are.
source "$(dirname "$0")/common.bash"

install openvino==2026.4.0 onnxruntime==1.32.0 onnx==1.23.0 numpy==2.4.6
python - <<'PY' | tee "$work/seen"
from importlib.metadata import version

import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper

print(*(f"{name} {version(name)}" for name in ("openvino", "onnxruntime", "onnx")), sep=", ")
nodes = [helper.make_node("TopK", ["scores", "k"], ["values", "places"], axis=1, largest=1, sorted=1)]
graph = helper.make_graph(
    nodes,
    "ties",
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 40])],
    [helper.make_tensor_value_info("places", TensorProto.INT64, [1, 8])],
    [helper.make_tensor("k", TensorProto.INT64, [1], [8])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
scores = (np.arange(40) % 4).astype(np.float32)[None]  # ten items of each score
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
first = session.run(None, {"scores": scores})[0][0].tolist()
core = openvino.Core()
compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU")
second = np.asarray(compiled({"scores": scores})[0])[0].tolist()
best = np.flatnonzero(scores[0] == 3).tolist()[:8]
print("lower index first:", best)
print(f"ONNX Runtime:      {first}, as asked: {first == best}")
print(f"OpenVINO:          {second}, as asked: {second == best}, equal scores: {bool((scores[0][second] == 3).all())}")
PY
expect "ONNX Runtime: .*as asked: True" "$work/seen"
expect "OpenVINO: .*as asked: False, equal scores: True" "$work/seen"
