from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from functools import partial

import pytest
from llm4sbr_ray import RayEngine

from llm4sbr import api, pipeline, store
from llm4sbr.asking.asker import Asker, BatchAnswerer, Budget
from llm4sbr.asking.cache import AnswerCache, answer_key
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
    for name, cache in (("local", "local"), ("ray", "ray"), ("again", "local")):
        engine = "local" if name == "local" else "ray"
        chosen = {
            "data.reader": "csv", "data.path": str(tmp_path / "log"), "data.min_item_count": 1,
            "infer.llm": f"transformers:{model}", "infer.cache": str(tmp_path / f"{cache}.sqlite"),
            "infer.options": {"max_new_tokens": 3, "dtype": "float32", "batch_size": 8},
            "infer.max_items": 2, "localize.encoder": f"transformers:{bert}", "engine.name": engine,
            "engine.options": {"workers": 2} if engine == "ray" else {},
        }  # fmt: skip
        runs[name] = tmp_path / name
        pipeline.execute(runs[name], nest(chosen), until="localize", progress=Progress(quiet=True))
    files = {name: sorted(run.glob("localize/**/*.safetensors")) for name, run in runs.items()}
    assert len(files["local"]) >= 4
    for one, *others in zip(*files.values(), strict=True):
        assert {store.file_sha256(other) for other in others} == {store.file_sha256(one)}
    asked = {name: store.read_json(run / "infer" / "infer.json")["asked"] for name, run in runs.items()}
    assert asked["local"] == asked["ray"] > 0
    assert asked["again"] == 0  # the engines share the answers


class Slow:
    """Takes its time, so that there is a block to lose."""

    fingerprint, batch_size = "slow", 4

    def generate(self, prompts):
        time.sleep(0.05)
        return [f"answer to {prompt}" for prompt in prompts]


def slow():
    return BatchAnswerer(Slow())


def test_a_worker_killed_while_it_answers_loses_nothing(tmp_path):
    killed = []
    with closing(RayEngine(workers=2)) as engine, AnswerCache.open(tmp_path / "a.sqlite") as cache:

        def advance(n=1, note=""):
            if len(cache) >= 20 and not killed:
                killed.append(engine.processes()[0])
                os.kill(killed[0], signal.SIGKILL)

        work = partial(engine.map, slow)
        asker = Asker(Slow(), cache, budget=Budget(), advance=advance, work=work, workers=2)
        asker.ask(range(120), lambda sample: [f"question {sample}"])
        assert killed
        assert killed[0] not in engine.processes()
        assert asker.asked == len(cache) == 120
        known = cache.get_many([answer_key("slow", f"question {sample}") for sample in range(120)])
        assert {answer.text for answer in known.values()} == {f"answer to question {i}" for i in range(120)}


def test_tune_tries_the_same_settings_as_local(tmp_path):
    pytest.importorskip("optuna")
    toy_log(tmp_path / "log")
    chosen = {"data.reader": "csv", "data.path": str(tmp_path / "log"), "data.min_item_count": 1}
    bert = tiny_bert(tmp_path / "bert")
    chosen |= {"infer.llm": "item-text", "localize.encoder": f"transformers:{bert}"}
    chosen |= {"train.epochs": 1, "train.dim": 8}
    found = []
    for engine in ("local", "ray"):
        run = tmp_path / engine
        pipeline.execute(run, nest(chosen), until="localize", progress=Progress(quiet=True))
        told = api.tune(run, trials=2, workers=1, variant="plain", engine=engine)
        found.append([(row["settings"], row["value"], row["state"]) for row in told["trials"]])
    assert found[0] == found[1]
    assert len(found[0]) == 2
