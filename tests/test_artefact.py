"""The artefact, read: bad sessions, damaged files and missing providers are refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm4sbr import store
from llm4sbr.errors import InputError
from llm4sbr.serving.artefact import RECORD, Artefact
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.toy_run import WIDTH

sys.path.insert(0, str(Path(__file__).parent))

from toy_exports import QUIET, asked, run_with_models


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    run = run_with_models(tmp_path_factory.mktemp("runs") / "run")
    export(run, Export(k=5, intents="input"), QUIET)
    return run / "export"


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return Path(shutil.copytree(exported / "onnx-input", tmp_path / "onnx"))


@pytest.mark.parametrize(
    ("items", "mask", "text"),
    [
        (np.array([[1.0]]), None, "float64 and bool, expected int64"),
        (np.array([1, 2]), None, r"expected \(B, T\)"),
        (np.zeros((0, 3), np.int64), None, "expected"),
        (np.ones((1, 8), np.int64), None, "8 clicks, at most 7"),
        (np.array([[21]]), None, "21 is not a catalogue id in 1..20"),
        (np.array([[0, 1]]), np.array([[True, True]]), "0 is not a catalogue id"),
        (np.array([[0]]), None, "every session needs a click"),
        (np.array([[0, 1]]), None, "every session needs a click"),
        (np.array([[1, 0, 2]]), None, "clicks must come before the padding"),
    ],
)
def test_bad_sessions_are_refused(exported, items, mask, text):
    artefact = Artefact.open(exported / "onnx-input", threads=1)
    with pytest.raises(InputError, match=text):
        artefact.top(items, items > 0 if mask is None else mask)


@pytest.mark.parametrize(
    ("intents", "text"),
    [
        (np.zeros((1, 2, WIDTH)), "float64"),
        (np.zeros((1, 1, WIDTH), np.float32), r"expected float32 \(1, 2, 8\)"),
        (np.full((1, 2, WIDTH), np.nan, np.float32), "not all numbers are finite"),
    ],
)
def test_bad_intents_are_refused(exported, intents, text):
    with pytest.raises(InputError, match=text):
        asked(Artefact.open(exported / "onnx-input", threads=1), [[1]], intents=intents)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(folder: Path, **entries) -> None:
    record = store.read_record(folder / RECORD) | entries
    (folder / RECORD).write_text(json.dumps(record | {store.SEAL: store.fingerprint(record)}))


def signed(folder: Path) -> dict[str, str]:
    return {name: store.file_sha256(folder / name) for name in ("model.onnx", "items.json")}


def rewrite(folder: Path, **columns) -> None:
    """Other items, signed."""
    items = json.loads((folder / "items.json").read_text())
    (folder / "items.json").write_text(json.dumps(items | columns))
    change(folder, files=signed(folder))


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda folder: cut(folder / "model.onnx"), "model.onnx: not the file that was exported"),
        (lambda folder: cut(folder / "items.json"), "items.json: not the file"),
        (lambda folder: (folder / "items.json").unlink(), "No such file"),
        (lambda folder: (folder / RECORD).unlink(), "no exported model"),
        (lambda folder: (folder / RECORD).write_text("[]"), "not written by export"),
        (lambda folder: change(folder, format=1), "format 1, this version reads 2"),
        (lambda folder: change(folder, k="5"), "k is '5', expected int"),
        (lambda folder: change(folder, k=6), "k is 6, the graph says '5'"),
        (lambda folder: change(folder, catalogue="other"), "catalogue is 'other', the graph says"),
        (lambda folder: change(folder, num_items=21), "key: 20 of them, artefact.json says 21 items"),
        (lambda folder: change(folder, files={}), "'model.onnx' has no hash"),
        (lambda folder: change(folder, inputs={}), r"inputs \[\], the graph has"),
        (lambda folder: change(folder, text_dim=9), r"intents of \[2, 9\], the graph has \[2, 8\]"),
        (lambda folder: change(folder, perspectives=["long"]), r"intents of \[1, 8\], the graph has"),
        (lambda folder: change(folder, perspectives=[1, 2]), "perspectives are no names"),
        (lambda folder: change(folder, files=signed(folder) | {"a\0": "0"}), "null byte"),
        (lambda folder: change(folder, files=signed(folder) | {"\ud800": "0"}), "surrogates not allowed"),
        (lambda folder: (folder / RECORD).write_text("[" * 100_000), "not a whole JSON file"),
        (lambda folder: (folder / RECORD).write_text("1" * 5000), "not a whole JSON file"),
        (
            lambda folder: rewrite(folder, key=list(range(20))),
            "key: an item has none, or one that",
        ),
        (lambda folder: rewrite(folder, title=["a"] * 19 + [None]), "title: an item has none, or one"),
        (lambda folder: rewrite(folder, title="a"), "title: none, artefact.json says 20 items"),
    ],
)
def test_damaged_artefacts_are_refused(copy, harm, text):
    harm(copy)
    with pytest.raises(store.StoreError, match=text):
        Artefact.open(copy, threads=1)


def test_files_outside_of_the_folder_are_not_looked_at(copy):
    files = json.loads((copy / RECORD).read_text())["files"]
    change(copy, files=files | {"../secret": "0"})
    with pytest.raises(store.StoreError, match=r"'\.\./secret' has no hash or is no name"):
        Artefact.open(copy, threads=1)


def test_a_graph_that_is_none(copy):
    (copy / "model.onnx").write_bytes(b"no graph")
    files = json.loads((copy / RECORD).read_text())["files"]
    change(copy, files=files | {"model.onnx": store.file_sha256(copy / "model.onnx")})
    with pytest.raises(store.StoreError, match="not a whole ONNX graph"):
        Artefact.open(copy, threads=1)


def test_a_provider_that_is_not_there_is_an_error(exported):
    with pytest.raises(InputError, match="provider cuda: this onnxruntime has cpu"):
        Artefact.open(exported / "onnx-input", provider="cuda")


def test_a_fall_back_to_the_cpu_is_an_error(exported, monkeypatch):
    """As onnxruntime-gpu does without a GPU: it lists the provider and then uses another."""
    import onnxruntime

    real, names = onnxruntime.InferenceSession, ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, names[1:])
    )
    with pytest.raises(InputError, match="provider cuda: ONNX Runtime fell back to cpu"):
        Artefact.open(exported / "onnx-input", provider="cuda")
    assert Artefact.open(exported / "onnx-input").provider == "cpu"


def test_the_runtime_leaves_nothing_in_a_users_home(tmp_path):
    """Its telemetry would write a device identifier there as soon as it is imported."""
    quiet = ("CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
    home = {key: value for key, value in os.environ.items() if key not in quiet}
    command = [sys.executable, "-c", "from llm4sbr.serving.artefact import onnxruntime; onnxruntime()"]
    subprocess.run(command, env=home | {"HOME": str(tmp_path)}, check=True)
    assert [path for path in tmp_path.rglob("*") if "icrosoft" in str(path)] == []
