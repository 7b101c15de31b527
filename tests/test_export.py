"""`llm4sbr export`: what it writes, what it refuses, and that what it wrote answers as the trained model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from llm4sbr import store
from llm4sbr.cli import _guarded
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import DeviceError, ExportError, InputError
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.fusion.saved import load_model
from llm4sbr.serving.artefact import RECORD, Artefact
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.toy_run import WIDTH, toy_run

sys.path.insert(0, str(Path(__file__).parent))

from toy_exports import ITEMS, QUIET, add_model, asked, run_with_models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return run_with_models(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(run) -> Path:
    export(run, Export(precisions=("fp32", "int8"), k=5, intents="input"), QUIET)
    return run / "export"


# What is written


def test_artefact_is_whole_and_says_what_it_is(run, exported):
    record = store.read_json(exported / "onnx-input" / RECORD)
    assert set(record["files"]) == {"model.onnx", "items.json", "attributes.safetensors"}
    assert (record["kind"], record["variant"], record["precision"]) == ("onnx", "intents", "fp32")
    assert (record["num_items"], record["k"], record["text_dim"]) == (ITEMS, 5, WIDTH)
    assert record["perspectives"] == ["long", "short"]
    assert record["catalogue"] == catalogue_hash(load(run / "prepare").catalogue)
    assert record["inputs"]["intents"]["shape"] == ["batch", 2, WIDTH]
    assert not list(exported.glob("*.tmp"))


def test_graph_says_the_same(exported):
    record = store.read_json(exported / "onnx-input" / RECORD)
    model = onnx.load(exported / "onnx-input" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    told = {one.key: one.value for one in model.metadata_props}
    assert [one.version for one in model.opset_import if one.domain == ""] == [20]
    assert told["fingerprint"] == record["fingerprint"]
    assert told["catalogue"] == record["catalogue"]
    assert told["shape of items"] == "[batch,length]"
    assert told["shape of scores"] == "[batch,5]"


@pytest.mark.parametrize("name", ["onnx-input", "onnx-input-int8"])
def test_verification_is_recorded(exported, name):
    found = store.read_json(exported / "export.json")[name]["verified"]
    assert found["lists"] == found["lists_that_agree"] > 0
    assert found["max_difference"] < 1e-5
    assert found["provider"] == "cpu"
    assert [(one["sessions"], one["clicks"]) for one in found["shapes"]][:2] == [(1, 1), (1, 7)]
    assert found["metrics"]["HR@5"]["change"] == found["metrics"]["MRR@5"]["change"] == 0


@pytest.mark.parametrize("name", ["onnx-input", "onnx-input-int8"])
def test_answers_are_the_models(run, exported, name):
    artefact = Artefact.open(exported / name, threads=1)
    model = load_model(run / "train" / "llm" / "seed-0").model
    sessions = [[3], [1, 2, 3, 4, 5], [7, 7, 2]]
    intents = np.random.default_rng(0).standard_normal((3, 2, WIDTH)).astype(np.float32)
    ids, scores = asked(artefact, sessions, intents=intents, exclude_seen=np.array([True, True, False]))
    for row, session in enumerate(sessions):
        items, one = torch.tensor([session]), torch.from_numpy(intents[row : row + 1])
        full = model(items, items > 0, one)[0]
        if row < 2:
            full[torch.tensor(session) - 1] = -torch.inf
        best = full.topk(5)
        assert ids[row].tolist() == (best.indices + 1).tolist()
        np.testing.assert_allclose(scores[row], best.values.detach(), rtol=1e-4, atol=1e-5)


def test_no_intents_are_zero_intents(exported):
    artefact = Artefact.open(exported / "onnx-input", threads=1)
    zeros = np.zeros((1, 2, WIDTH), np.float32)
    np.testing.assert_array_equal(asked(artefact, [[3, 4]])[1], asked(artefact, [[3, 4]], intents=zeros)[1])


@pytest.mark.slow
def test_predictor_and_no_intents_need_no_input(run):
    for source, predict in (("predictor", True), ("none", False)):
        export(run, Export(k=4, intents=source), QUIET)
        artefact = Artefact.open(run / "export" / f"onnx-{source}", threads=1)
        ids, _ = asked(artefact, [[1, 2, 3]], exclude_seen=False)
        model = load_model(run / "train" / "llm" / "seed-0").model
        items = torch.tensor([[1, 2, 3]])
        best = model(items, items > 0, predict=predict).topk(4)
        assert ids[0].tolist() == (best.indices[0] + 1).tolist()
        with pytest.raises(InputError, match="takes none"):
            asked(artefact, [[1]], intents=np.zeros((1, 2, WIDTH), np.float32))


def test_where_everything_was_seen_ids_are_zero(run):
    export(run, Export(k=ITEMS, variant="plain"), QUIET)
    artefact = Artefact.open(run / "export" / "onnx-plain", threads=1)
    ids, scores = asked(artefact, [[1, 2, 3, 4, 5]])
    assert sorted(ids[0, :15].tolist()) == list(range(6, 21))
    assert ids[0, 15:].tolist() == [0] * 5
    assert np.isneginf(scores[0, 15:]).all()


@pytest.mark.slow
def test_large_weights_stand_beside_the_graph(run):
    wanted = Export(k=3, variant="plain", options={"most_inside": 100})
    record = export(run, wanted, QUIET)["onnx-plain"]
    assert set(record["files"]) == {"model.onnx", "model.onnx.data", "items.json", "attributes.safetensors"}
    folder = run / "export" / "onnx-plain"
    assert (folder / "model.onnx.data").stat().st_size >= 20 * 8 * 4
    assert (asked(Artefact.open(folder, threads=1), [[1]])[0] > 0).all()


# What is refused


def test_k_beyond_the_catalogue(run):
    with pytest.raises(InputError, match="k = 21: the catalogue has 20 items"):
        export(run, Export(k=21, seed=0), QUIET)


def test_intents_for_a_plain_model(run):
    with pytest.raises(InputError, match="plain backbone"):
        export(run, Export(variant="plain", intents="predictor"), QUIET)


def test_unknown_precision(run):
    with pytest.raises(InputError, match="no precision 'fp8'; it has fp32, int8"):
        export(run, Export(precisions=("fp8",)), QUIET)


def test_no_format(run, capsys):
    assert _guarded(["export", str(run), "--format", ",", "-q"]) == 2
    assert capsys.readouterr().err.startswith("error: no format to export to is named")


LIAR = """
from llm4sbr_export.onnx import Onnx

class Scorer:
    provider = "cpu"
    def __init__(self, inner): self.inner = inner
    def score(self, **inputs):
        ids, scores = self.inner.score(**inputs)
        return ids.flip(1) % 20 + 1, scores

class Liar(Onnx):
    def load(self, path):
        return Scorer(super().load(path))
"""


def test_an_artefact_that_answers_otherwise_is_not_kept(run, install):
    install("lies", {"exporters": {"liar": "lies:Liar"}}, lies=LIAR)
    with pytest.raises(ExportError, match=r"liar-plain: .*scores differ.*nothing was kept"):
        export(run, Export(formats=("liar",), k=5, variant="plain"), QUIET)
    assert not (run / "export" / "liar-plain").exists()
    assert not (run / "export" / "liar-plain.tmp").exists()
    assert "liar-plain" not in store.read_json(run / "export" / "export.json")


@pytest.mark.slow
def test_without_a_gpu_the_command_is_written_and_the_exit_code_is_3(run, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [
        "export",
        str(run),
        "--format",
        "tensorrt",
        "--intents",
        "input",
        "-k",
        "5",
        "-q",
        "--max-batch",
        "32",
    ]
    assert _guarded(arguments) == 3
    error = capsys.readouterr().err.strip()
    assert "no NVIDIA GPU" in error
    assert "\n" not in error
    folder = run / "export" / "tensorrt-input"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "trtexec.sh"]
    command = (folder / "trtexec.sh").read_text()
    assert "--maxShapes=items:32x7,mask:32x7,exclude_seen:32x1,intents:32x2x8" in command
    assert "--saveEngine=model.engine" in command
    assert "not_built" in store.read_json(run / "export" / "export.json")["tensorrt-input"]


def test_by_default_intents_are_predicted_where_the_model_can(tmp_path):
    run = toy_run(tmp_path / "run", items=ITEMS)
    both = ("long", "short")
    about = {"fuser": "gated", "perspectives": both, "horizons": both, "text_dim": WIDTH}
    for variant, predictor, expected in (
        ("llm", True, "predictor"),
        ("item-text", False, "intents"),  # trained before there were predictors
        ("none", False, "none"),
    ):
        add_model(run, variant, **about, predictor=predictor)
        assert ReferenceModel.of(run, variant=variant).intent_mode == expected
    export(run, Export(k=5, variant="llm"), QUIET)
    assert set(Artefact.open(run / "export" / "onnx-llm", threads=1).record["inputs"]) == {
        "items",
        "mask",
        "exclude_seen",
    }


def test_a_k_that_tensorrt_cannot_is_refused_first(tmp_path):
    run = toy_run(tmp_path / "run", items=4000, sources=())
    add_model(run, "plain")
    with pytest.raises(InputError, match="k = 3900: TensorRT makes lists of at most 3840"):
        export(run, Export(formats=("tensorrt",), k=3900), QUIET)
    assert not any((run / "export").iterdir())


def test_device_errors_exit_with_3_and_others_with_2():
    assert (DeviceError("x").exit_code, ExportError("x").exit_code) == (3, 2)
