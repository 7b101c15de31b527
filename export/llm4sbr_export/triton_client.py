"""Ask Triton for recommendations: `pip install 'tritonclient[http]'`, then `python client.py 12 7 31`.

Arguments are catalogue ids, oldest click first. Triton batches requests of equal shape only: a client that
sends many should pad its sessions to a few lengths.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def main(clicks: list[int], *, url: str = "localhost:8000", model: str = "llm4sbr") -> None:
    """Print ids, titles and scores for one session."""
    from tritonclient.http import InferenceServerClient, InferInput

    client = InferenceServerClient(url)
    items = np.array([clicks], np.int64)
    values = {"items": items, "mask": items > 0, "exclude_seen": np.ones((1, 1), np.bool_)}
    for one in client.get_model_metadata(model)["inputs"]:
        if one["name"] == "intents":  # zeros: no intent is known
            values["intents"] = np.zeros((1, *map(int, one["shape"][1:])), np.float32)
    types = {"int64": "INT64", "bool": "BOOL", "float32": "FP32"}
    inputs = []
    for name, value in values.items():
        inputs.append(InferInput(name, list(value.shape), types[value.dtype.name]))
        inputs[-1].set_data_from_numpy(value)
    found = client.infer(model, inputs)
    titles = json.loads(Path(__file__).with_name("items.json").read_text(encoding="utf-8"))["title"]
    for id, score in zip(found.as_numpy("item_ids")[0], found.as_numpy("scores")[0], strict=True):
        if id:
            sys.stdout.write(f"{id:8d}  {score:8.3f}  {titles[int(id) - 1]}\n")


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
