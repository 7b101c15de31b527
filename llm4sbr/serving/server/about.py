"""What the server says about its models: metadata, configuration, statistics and index, as Triton does."""

from __future__ import annotations

from typing import Any

from llm4sbr.serving.server.inference import inputs_of, outputs_of
from llm4sbr.serving.server.metrics import Histogram, ModelMetrics
from llm4sbr.serving.server.models import Model, Models
from llm4sbr.serving.server.served import Served

PLATFORM = "onnxruntime_onnx"
NUMBER = "1"
"""Version that statistics tell, another name of the served one: `perf_analyzer` can read numbers only."""

Shapes = dict[str, tuple[str, list[int]]]


def metadata(models: Models, model: Model) -> dict[str, Any]:
    """Name, versions, inputs and outputs of a model."""

    def listed(tensors: Shapes) -> list[dict[str, Any]]:
        return [{"name": key, "datatype": kind, "shape": shape} for key, (kind, shape) in tensors.items()]

    about = {"name": models.name, "versions": [model.version], "platform": PLATFORM}
    artefact = model.artefact
    return about | {"inputs": listed(inputs_of(artefact)), "outputs": listed(outputs_of(artefact))}


def configuration(models: Models, model: Model) -> dict[str, Any]:
    """The model's configuration; the dimensions are those behind the batch."""

    def listed(tensors: Shapes) -> list[dict[str, Any]]:
        return [
            {"name": key, "data_type": f"TYPE_{kind}", "dims": shape[1:]}
            for key, (kind, shape) in tensors.items()
        ]

    inputs = [one | {"optional": one["name"] != "items"} for one in listed(inputs_of(model.artefact))]
    return {
        "name": models.name,
        "platform": PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": models.settings.max_batch,
        "input": inputs,
        "output": listed(outputs_of(model.artefact)),
    }


def statistics(models: Models) -> dict[str, Any]:
    """What a model has computed since the server began, times in nanoseconds.

    `inference_count` counts sessions, `execution_count` batches. `success` and `fail` count requests and
    their whole time; `queue` and `compute_infer` count batches, `queue` by the longest wait in each.
    What comes before and after computing has the same count, as `perf_analyzer` wants, and no time.
    """
    found: ModelMetrics = models.metrics
    answered = {key: count for key, count in found.requests.items() if key[0] in ANSWERED}
    good = sum(count for (_, status), count in answered.items() if status < 300)
    bad = sum(answered.values()) - good
    spent = sum(one.sum for route, one in found.seconds.items() if route in ANSWERED)
    times = {"success": (good, spent), "fail": (bad, 0.0)}
    times |= {"queue": _of(found.waiting), "compute_infer": _of(found.computing)}
    times |= dict.fromkeys(("compute_input", "compute_output"), (times["compute_infer"][0], 0.0))
    times |= dict.fromkeys(("cache_hit", "cache_miss"), (0, 0.0))
    return {
        "name": models.name,
        "version": NUMBER,
        "last_inference": int(1000 * found.last),
        "inference_count": int(found.rows.sum),
        "execution_count": sum(found.rows.counts),
        "inference_stats": {
            name: {"count": count, "ns": int(1e9 * seconds)} for name, (count, seconds) in times.items()
        },
        "batch_stats": [],
    }


ANSWERED = {"infer", "recommend", "grpc infer"}
"""Routes that compute."""


def index(served: Served, *, ready: bool = False) -> list[dict[str, str]]:
    """All models with their states; those that are ready only if that is asked."""
    found = []
    for name, models in served.models.items():
        version = models.current.version if models.ready else ""
        state = "READY" if models.ready else "UNAVAILABLE"
        reason = "a newer version is refused; the log says why" if models.refused else ""
        if models.ready or not ready:
            found.append({"name": name, "version": version, "state": state, "reason": reason})
    return found


def _of(histogram: Histogram) -> tuple[int, float]:
    return sum(histogram.counts), histogram.sum
