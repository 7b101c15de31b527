from __future__ import annotations

import pytest

from llm4sbr import pipeline, store
from llm4sbr.config import nest
from llm4sbr.progress import Progress
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.llms import tiny_llama
from llm4sbr.testing.toy import toy_log

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings are Ray's


def test_infer_and_localize_give_the_bytes_of_local(tmp_path):

    toy_log(tmp_path / "log")
    model, bert = tiny_llama(tmp_path / "llama"), tiny_bert(tmp_path / "bert")
    runs = {}
    for name in ("local", "ray"):
        chosen = {
            "data.reader": "csv", "data.path": str(tmp_path / "log"), "data.min_item_count": 1,
            "infer.llm": f"transformers:{model}", "infer.cache": str(tmp_path / f"{name}.sqlite"),
            "infer.options": {"max_new_tokens": 3, "dtype": "float32", "batch_size": 8},
            "infer.max_items": 2, "localize.encoder": f"transformers:{bert}", "engine.name": name,
            "engine.options": {"workers": 2} if name == "ray" else {},
        }  # fmt: skip
        runs[name] = tmp_path / name
        pipeline.execute(runs[name], nest(chosen), until="localize", progress=Progress(quiet=True))
    files = {name: sorted(run.glob("localize/**/*.safetensors")) for name, run in runs.items()}
    assert len(files["local"]) == 4
    for one, other in zip(files["local"], files["ray"], strict=True):
        assert store.file_sha256(one) == store.file_sha256(other)
