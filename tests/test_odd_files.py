"""Pipes, sockets and devices in place of files: one line at once, where opening them would wait for ever."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from llm4sbr import pipeline, store
from llm4sbr.cli import _guarded
from llm4sbr.errors import StoreError
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.external import external_files
from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy_export import toy_export

sys.path.insert(0, str(Path(__file__).parent))
from toy_runs import settings

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.timeout(120)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            sock.bind(path.name)
        finally:
            os.chdir(here)


ODD = [pipe, link_to_pipe, device, listening]


@pytest.mark.parametrize("make", ODD)
def test_whatever_reads_a_file_refuses_what_is_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "odd"
    make(path)
    readers = (store.read_json, store.read_text, store.read_tensors, store.read_table, store.file_sha256)
    for read in (*readers, store.open_for_reading, store.checked):
        with pytest.raises(StoreError, match="odd: a pipe, socket or device, not a file"):
            read(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("odd")
    pipeline.execute(base / "run", settings(base), progress=Progress(quiet=True))
    toy_export(base / "run" / "export" / "onnx")
    return base / "run"


@pytest.mark.parametrize("make", [pipe, *(pytest.param(one, marks=pytest.mark.slow) for one in ODD[1:])])
def test_no_command_waits_for_a_file_of_a_run(
    whole: Path, tmp_path: Path, capsys: Output, make: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    names = [
        "config.toml",
        "evaluate/metrics.json",
        "prepare/stage.json",
        "export/onnx/artefact.json",
        ".lock",
    ]
    for name in [*names, "export/onnx/model.onnx", "train/plain/seed-0/model.safetensors"]:
        shutil.copytree(whole, run)
        (run / name).unlink()
        make(run / name)
        for command in (
            ["recommend", str(run), "--session", "i03"],
            ["recommend", str(run / "export/onnx"), "--session", "i03"],
            ["report", str(run)],
            ["config", str(run), "--set", "evaluate.k=[3]"],
        ):
            assert _guarded(command) in (0, 2), (name, command)
            assert "internal error" not in capsys.readouterr().err
        shutil.rmtree(run)


@pytest.mark.parametrize(
    "command",
    [
        ["prepare", "run", "--dataset", "csv", "--data", "odd"],
        ["prepare", "run", "--dataset", "jsonl", "--data", "odd"],
        ["prepare", "run", "--dataset", "parquet", "--data", "odd"],
        ["prepare", "run", "--dataset", "csv", "--data", "log", "--set", "data.options.items_file=odd"],
        ["config", "--config", "odd"],
        ["answers", "import", "odd"],
        ["answers", "stats", "--cache", "odd"],
        ["report", "odd"],
        ["serve", "odd", "--port", "0"],
    ],
)
def test_no_command_waits_for_a_file_it_is_given(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pipe(tmp_path / "odd")
    assert _guarded(command) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_version_with_a_pipe_is_refused_and_the_next_good_one_is_taken(tmp_path: Path) -> None:
    folder = toy_export(tmp_path / "export")
    with live_server(folder, "--watch", "0.1") as server:
        for count, name in enumerate(("model.onnx", "artefact.json", "items.json"), 1):
            bad = toy_export(tmp_path / "new", step=2 * count + 5)
            (bad / name).unlink()
            pipe(bad / name)
            shutil.rmtree(folder)
            bad.rename(folder)
            assert "not a file" in server.wait_for("new version refused", count=count)["error"]
        assert "refused" in server.ask("/v2/health/ready").json
        assert b'llm4sbr_version_refused{model="llm4sbr"} 1.0' in server.ask("/metrics").body
        assert server.ask("/recommend", {"session": [3], "k": 1}).json["items"][0]["id"] == 4
        shutil.rmtree(folder)
        toy_export(folder, step=3)
        server.wait_for("model ready", count=2)
        assert server.ask("/v2/health/ready").json == {"ready": True}
        assert b'llm4sbr_version_refused{model="llm4sbr"} 0.0' in server.ask("/metrics").body
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10


def test_an_opening_that_hangs_or_panics_stops_neither_the_watcher_nor_the_end(tmp_path: Path) -> None:
    code = f"""
import asyncio, logging, sys, time
from pathlib import Path
import polars as pl
from llm4sbr.serving.server import models
from llm4sbr.serving.server.metrics import Metrics
from llm4sbr.serving.server.settings import Settings
from llm4sbr.testing.toy_export import toy_export

folder, opened = Path({str(tmp_path / "export")!r}), models.Model.open
toy_export(folder)

def panics(*_, **__): raise pl.exceptions.PanicException("a library's fault")
def hangs(*_, **__): time.sleep(1000)

async def main():
    found = models.Models(folder, Settings(), Metrics())
    await found.load()
    models.OPENING = 0.2
    for fault in (panics, hangs):
        models.Model.open = fault
        await found.reload()
        assert found.refused and found.current
    models.Model.open = opened
    models.OPENING = 60
    await found.reload()
    assert not found.refused
    print(dict(found.metrics.reloads))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "{'failed': 2, 'done': 1}", done.stderr


def outside(folder: Path, location: str) -> None:
    """The export of a graph whose first weights are said to be in another file."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=location)
    path.write_bytes(model.SerializeToString())
    record = store.read_record(folder / "artefact.json")
    record["files"]["model.onnx"] = store.file_sha256(path)
    store.write_record(folder / "artefact.json", record)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "weights.bin", "*/_ORT_MEM_ADDR_/*"])
def test_weights_outside_of_the_listed_files_are_not_opened(tmp_path: Path, location: str) -> None:
    folder = toy_export(tmp_path / "export")
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (folder / "weights.bin").write_bytes(bytes(10_000))
    outside(folder, location)
    assert external_files(folder / "model.onnx") == {location}
    with pytest.raises(StoreError, match="not a file of this export"):
        Artefact.open(folder, threads=1)


def test_weights_are_found_wherever_a_graph_may_have_them(tmp_path: Path) -> None:
    def weights(name: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="offset", value="0")
        tensor.external_data.add(key="location", value=name)
        return tensor

    inner = onnx.GraphProto(initializer=[weights("inner")])
    node = onnx.NodeProto(
        attribute=[onnx.AttributeProto(g=inner), onnx.AttributeProto(tensors=[weights("list")])]
    )
    sparse = onnx.SparseTensorProto(values=weights("values"), indices=weights("indices"))
    graph = onnx.GraphProto(node=[node], initializer=[weights("plain")], sparse_initializer=[sparse])
    function = onnx.FunctionProto(
        node=[onnx.NodeProto(attribute=[onnx.AttributeProto(t=weights("function"))])]
    )
    path = tmp_path / "graph.onnx"
    path.write_bytes(onnx.ModelProto(graph=graph, functions=[function]).SerializeToString())
    assert external_files(path) == {"inner", "list", "values", "indices", "plain", "function"}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="not a whole ONNX graph"):
        external_files(path)
