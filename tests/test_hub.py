"""Models by folder or name: what is in them, and stages that notice when it changes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from torch import Tensor

from llm4sbr import freshness, pipeline, stamps, store
from llm4sbr.config import build, nest
from llm4sbr.encoders import TransformersEncoder
from llm4sbr.errors import ConfigError
from llm4sbr.evaluation.ranking import pick_device
from llm4sbr.llms.transformers import TransformersLLM
from llm4sbr.llms.weights import WeightFiles
from llm4sbr.progress import Progress
from llm4sbr.system import models
from llm4sbr.testing.encoders import tiny_bert
from llm4sbr.testing.toy import toy_log


def test_content_is_that_of_the_files_wherever_they_are(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "README.md").write_text("old")
    before = models.content(model)
    moved = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    os.utime(moved / "config.json", (1, 1))
    (moved / "README.md").write_text("new")
    assert models.content(moved) == before
    (moved / "config.json").write_text('{"hidden_size": 8}')
    assert models.content(moved) != before


def test_content_samples_large_files_throughout(tmp_path: Path) -> None:
    path = tmp_path / "weights.gguf"
    content = bytearray(4 * 2**20)
    found = set()
    for place in (0, len(content) // 2, len(content) - 2**16):
        content[place] ^= 1
        path.write_bytes(content)
        found |= {models.content(path), models.content(tmp_path)}
    path.write_bytes(content[:-1])
    assert len(found | {models.content(path), models.content(tmp_path)}) == 8


def test_content_counts_the_parts_that_modules_json_names(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"path": ""}, {"path": "1_Pooling"}]')
    for part in ("1_Pooling", "checkpoint-7"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")
    before = models.content(tmp_path)
    (tmp_path / "checkpoint-7" / "config.json").write_text("{ }")
    assert models.content(tmp_path) == before
    (tmp_path / "1_Pooling" / "config.json").write_text("{ }")
    assert models.content(tmp_path) != before


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("Name or service not known")

    kept = tmp_path / "hub" / "models--some--llm"
    (kept / "refs").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    for commit in ("a" * 40, "b" * 40):
        (kept / "refs" / "main").write_text(commit)
        (kept / "snapshots" / commit).mkdir(parents=True)
        (kept / "snapshots" / commit / "config.json").write_text('{"model_type": "llama"}')
        assert WeightFiles("some/llm").identity == f"some/llm@{commit}"
    assert models.commit("nobody/has-this", "main") == "main"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose encoder is a folder, up to `localize`."""
    toy_log(tmp_path / "log")
    tiny_bert(tmp_path / "bert")
    chosen = {
        "data.reader": "csv",
        "data.path": str(tmp_path / "log"),
        "data.min_item_count": 1,
        "infer.llm": "item-text",
        "localize.encoder": f"transformers:{tmp_path / 'bert'}",
        "localize.f": 2,
    }
    pipeline.execute(tmp_path / "run", nest(chosen), until="localize", progress=Progress(quiet=True))
    return tmp_path / "run"


class Said(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def again(run: Path, **chosen: str) -> list[str]:
    progress = Said()
    pipeline.execute(run, nest(chosen), until="localize", progress=progress)
    return [text for text in progress.notes if text.startswith("localize: ")]


def test_the_manifest_states_encoder_and_pooling(run: Path, tmp_path: Path) -> None:
    manifest = store.read_json(run / "localize" / "llm" / "manifest.json")
    assert manifest["pooling"] == "mean"
    origin = f"sha256:{models.content(tmp_path / 'bert')}"
    assert manifest["encoder"] == f"{origin}, mean pooling, unit length, 64 tokens"


def test_another_model_in_the_same_folder_makes_the_stage_stale(run: Path, tmp_path: Path) -> None:
    assert again(run) == ["localize: fresh"]
    before = store.read_tensors(run / "localize" / "items.safetensors")["items"]
    tiny_bert(tmp_path / "bert", seed=1)  # the same sizes, other weights
    (note,) = again(run)
    assert note.startswith("localize: redone, content of localize.encoder: ")
    assert (store.read_tensors(run / "localize" / "items.safetensors")["items"] != before).any()
    assert again(run) == ["localize: fresh"]


@pytest.mark.parametrize(
    ("stage", "chosen"),
    [
        ("infer", {"infer.llm": "transformers:FOLDER"}),
        ("infer", {"infer.llm": "smollm2-135m", "infer.options.model": "FOLDER"}),
        ("infer", {"infer.llm": "transformers:FOLDER/weights.gguf"}),
        ("localize", {"localize.encoder": "bert", "localize.encoder_options.model": "FOLDER"}),
    ],
    ids=["folder", "option", "file", "encoder's option"],
)
def test_a_stamp_names_what_is_in_a_local_model(
    run: Path, tmp_path: Path, stage: str, chosen: dict[str, str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    given = nest({key: value.replace("FOLDER", str(folder)) for key, value in chosen.items()})
    (one,) = [one for one in freshness.STAGES if one.name == stage]
    found = []
    for content in (b"one", b"two"):
        (folder / "weights.gguf").write_bytes(content)
        parts = freshness.stamp_for(run, one, build(given)).parts
        found.append(parts[f"content of {next(iter(chosen))}"])
    assert found[0] != found[1]
    assert not [key for key in freshness.stamp_for(run, one, build({})).parts if key.startswith("content of")]


def test_results_outlive_the_model(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "bert")
    assert again(run) == ["localize: fresh"]
    tiny_bert(tmp_path / "bert", seed=1)
    assert again(run)[0].startswith("localize: redone, content of localize.encoder: ")


def test_a_run_of_a_version_that_did_not_look_is_fresh(run: Path, tmp_path: Path) -> None:
    stamp = stamps.read_stamp(run / "localize")
    assert stamp is not None
    older = {key: value for key, value in stamp.parts.items() if not key.startswith("content of ")}
    assert len(older) < len(stamp.parts)
    stamps.write_stamp(run / "localize", stamp._replace(parts=older))
    assert again(run) == ["localize: fresh"]
    (note,) = again(run, **{"localize.item_text": "full"})
    assert "localize.item_text: title -> full" in note
    tiny_bert(tmp_path / "bert", seed=1)
    assert again(run)[0].startswith("localize: redone, content of localize.encoder: ")


def test_a_catalogue_is_encoded_once_for_two_runs_and_a_damaged_copy_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))
    other = Path(shutil.copytree(run, tmp_path / "other"))
    encoded: list[str] = []
    real = TransformersEncoder._encode_batch

    def counted(self: TransformersEncoder, texts: list[str]) -> Tensor:
        encoded.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(TransformersEncoder, "_encode_batch", counted)
    notes = []
    for one, damage in ((run, False), (other, False), (other, True)):
        for path in (tmp_path / "cache" / "embeddings").glob("*" if damage else "nothing"):
            path.write_bytes(b"no safetensors")
        encoded.clear()
        progress = Said()
        pipeline.execute(one, {}, until="localize", force=True, progress=progress)
        notes.append([text for text in progress.notes if "encoded again" in text])
        assert (len(encoded) > 0) == (one == run or damage)  # item-text's answers are titles
    assert [len(said) for said in notes] == [0, 0, 1]
    assert notes[2][0].startswith(f"localize: {tmp_path / 'cache' / 'embeddings'}")


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "", "cpu;rm"])
def test_a_device_that_is_not_here_is_one_line(name, tmp_path):
    with pytest.raises(ConfigError, match=r"infer.options.device = .*no such device here"):
        TransformersLLM(tmp_path, device=name)
    with pytest.raises(ConfigError, match=r"localize.encoder_options.device = "):
        TransformersEncoder(tmp_path, device=name)
    with pytest.raises(ConfigError, match=r"train.device = ") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)
