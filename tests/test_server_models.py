"""Which model a server takes: none that is damaged, and a new version without losing a request."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest

from llm4sbr import store
from llm4sbr.errors import InputError
from llm4sbr.serving.server.metrics import Metrics
from llm4sbr.serving.server.models import Models, find_folder
from llm4sbr.serving.server.settings import Settings
from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy_export import toy_export

START = [sys.executable, "-m", "llm4sbr", "serve"]


def refused(*arguments: str, cli: list[str] = START) -> str:
    """The last line that a server leaves which does not start; it must exit with 2."""
    done = subprocess.run([*cli, *arguments, "--port", "0"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_a_folder_without_a_model(tmp_path):
    assert "neither an exported model nor a run with one; run llm4sbr export" in refused(str(tmp_path))


def test_a_run_directory_stands_for_its_export(tmp_path):
    only = toy_export(tmp_path / "export" / "onnx-int8")
    assert find_folder(tmp_path) == find_folder(only) == only
    toy_export(tmp_path / "export" / "onnx-predictor")
    with pytest.raises(InputError, match=r"several exports, name one: .*onnx-int8, .*onnx-predictor"):
        find_folder(tmp_path)
    assert find_folder(toy_export(tmp_path / "export" / "onnx").parent.parent).name == "onnx"


def truncate(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncate_and_sign(folder: Path) -> None:
    """A graph that broke off before it was signed: the hash is right, the file is not."""
    truncate(folder)
    change(folder, files={name: sha256(folder / name) for name in ("model.onnx", "items.json")})


def other_catalogue(folder: Path) -> None:
    other = toy_export(folder.parent / "other", items=30)
    shutil.copy(other / "items.json", folder)


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def change(folder: Path, **values: object) -> None:
    store.write_record(folder / "artefact.json", store.read_record(folder / "artefact.json") | values)


BROKEN = [
    (truncate, "model.onnx: not the file that was exported"),
    (truncate_and_sign, "model.onnx: not a whole ONNX graph"),
    (other_catalogue, "items.json: not the file that was exported"),
    (lambda folder: (folder / "items.json").unlink(), "items.json: No such file"),
    (lambda folder: change(folder, k=7), "artefact.json: k is 7, the graph says '5'"),
    (lambda folder: change(folder, catalogue="x"), "catalogue is 'x', the graph says 'toy'"),
    (lambda folder: change(folder, files={}), "has no hash"),
    (lambda folder: change(folder, format=1), "format 1"),
    (lambda folder: (folder / "artefact.json").write_text("{"), "artefact.json"),
]


@pytest.mark.parametrize(("break_", "message"), [BROKEN[0], BROKEN[4]])  # the others: a new version, below
def test_a_damaged_model_does_not_start(tmp_path, break_, message):
    folder = toy_export(tmp_path / "export")
    break_(folder)
    assert message in refused(str(folder))


# A new version


def first(server) -> int:
    return server.ask("/recommend", {"session": [3], "k": 1}).json["items"][0]["id"]


def replace(folder: Path, new: Path) -> None:
    """Put a new export where the old one is, as export does: one rename after another."""
    folder.rename(folder.with_name("gone"))
    new.rename(folder)
    shutil.rmtree(folder.with_name("gone"))


def test_a_new_version_drops_no_request_and_a_bad_one_changes_nothing(tmp_path):
    folder = toy_export(tmp_path / "export")
    with live_server(folder, "--watch", "0.1") as server:
        old = server.wait_for("model ready")["version"]
        found: Counter[object] = Counter()
        done = threading.Event()

        def load() -> None:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
            while not done.is_set():
                connection.request("POST", "/recommend", '{"session": [3], "k": 1}')
                answer = connection.getresponse()
                body = json.loads(answer.read())
                found[answer.status if answer.status != 200 else body["items"][0]["id"]] += 1
            connection.close()

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number, (break_, message) in enumerate(BROKEN, 1):
                bad = toy_export(tmp_path / "new", step=7)
                break_(bad)
                replace(folder, bad)
                told = server.wait_for("new version refused", count=number)
                assert message in told["error"]
                assert told["serving"] == old
                shutil.rmtree(tmp_path / "other", ignore_errors=True)
            assert first(server) == 4
            replace(folder, toy_export(tmp_path / "new", step=3))
            new = server.wait_for("model ready", count=2)["version"]
            time.sleep(0.1)
            assert first(server) == 6
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert set(found) == {4, 6}  # every request was answered, by the one version or the other
        assert new != old
        assert server.ask(f"/v2/models/llm4sbr/versions/{old}").status == 404
        assert server.ask(f"/v2/models/llm4sbr/versions/{new}").status == 200
        metrics = server.ask("/metrics").body.decode()
        assert f'llm4sbr_reloads_total{{model="llm4sbr",result="failed"}} {len(BROKEN):.1f}' in metrics
        assert 'llm4sbr_reloads_total{model="llm4sbr",result="done"} 1.0' in metrics


def test_files_that_are_still_being_copied_are_waited_for(tmp_path):
    folder, new = toy_export(tmp_path / "export"), toy_export(tmp_path / "new", step=3)
    with live_server(folder, "--watch", "0.3") as server:
        shutil.copy(new / "artefact.json", folder)  # in the worst order, a little at a time
        time.sleep(0.2)
        shutil.copy(new / "items.json", folder)
        whole = (new / "model.onnx").read_bytes()
        with (folder / "model.onnx").open("wb") as stream:
            for start in range(0, len(whole), len(whole) // 4 + 1):
                stream.write(whole[start : start + len(whole) // 4 + 1])
                stream.flush()
                time.sleep(0.2)
        server.wait_for("model ready", count=2)
        assert first(server) == 6
        assert not [one for one in server.events if one["event"] == "new version refused"]


def test_a_model_that_was_replaced_goes_at_once(tmp_path):
    """Nothing collects it: what lives once a model is ready is frozen."""
    settings, metrics = Settings(), Metrics()
    models = Models(toy_export(tmp_path), settings, metrics)

    async def main() -> list[object]:
        await models.load()
        first = weakref.ref(models.current)
        await models.load()
        return [first(), models.current.batcher.rows]

    try:
        assert asyncio.run(main()) == [None, 0]
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
