"""The folder that `llm4sbr export` writes into: others at work in it, links, and what a kill left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm4sbr import folders
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.progress import Progress
from llm4sbr.serving.artefact import Artefact
from llm4sbr.stages.export import Export, export
from llm4sbr.testing.toy_run import toy_run

ITEMS = 20
QUIET = Progress(quiet=True)


@pytest.fixture
def run(tmp_path) -> Path:
    run = toy_run(tmp_path / "run", items=ITEMS, sources=())
    catalogue = load(run / "prepare").catalogue
    recipe = Recipe(catalogue.size, 8, "stamp")
    folder = run / "train" / "plain" / "seed-0"
    save_model(folder, build(recipe), recipe=recipe, catalogue=catalogue_hash(catalogue), facts={})
    return run


def test_two_exports_at_once(run):
    """They wrote into one folder: one failed, or verified what the other had written."""
    before = sorted((run / "export").glob("*"))
    with (
        folders.locked(run, what="run"),
        pytest.raises(StoreError, match="another llm4sbr process is working"),
    ):
        export(run, Export(k=5), QUIET)
    assert sorted((run / "export").glob("*")) == before


def test_a_summary_that_is_none_is_said_before_the_work(run):
    (run / "export").mkdir()
    for text, message in (("[]", "not written by export"), ("{", "not a whole JSON file")):
        (run / "export" / "export.json").write_text(text)
        with pytest.raises(StoreError, match=message):
            export(run, Export(k=5), QUIET)
        assert [path.name for path in (run / "export").iterdir()] == ["export.json"]


@pytest.mark.slow
def test_a_link_in_the_place_of_an_artefact_is_replaced_and_its_target_stays(run, tmp_path):
    (run / "export").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (run / "export" / "onnx").symlink_to(tmp_path / "elsewhere")
    for _ in range(2):  # the second found the link as onnx.old, and failed
        export(run, Export(k=5), QUIET)
        assert sorted(path.name for path in (run / "export").iterdir()) == ["export.json", "onnx"]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept"]
    assert Artefact.open(run / "export" / "onnx", threads=1).k == 5


def test_what_a_kill_between_two_renames_left_is_brought_back(run):
    export(run, Export(k=5), QUIET)
    (run / "export" / "onnx").rename(run / "export" / "onnx.old")
    with pytest.raises(InputError):  # it fails, but the former one is there again
        export(run, Export(k=ITEMS + 1), QUIET)
    assert Artefact.open(run / "export" / "onnx", threads=1).k == 5


@pytest.mark.slow
def test_a_triton_repository_is_nothing_to_open(run):
    export(run, Export(formats=("triton",), k=5), QUIET)
    with pytest.raises(StoreError, match=r"a triton export has no model\.onnx to open here"):
        Artefact.open(run / "export" / "triton")
