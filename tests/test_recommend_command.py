"""`llm4sbr recommend`: exported models, sessions from standard input, and what goes wrong with either."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr import store
from llm4sbr.cli import _guarded
from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.fusion.saved import save_model
from llm4sbr.protocols import Horizon
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.recommendation import Recommendation
from llm4sbr.serving.stream import LONGEST, replies
from llm4sbr.testing.toy_export import toy_export
from llm4sbr.testing.toy_run import WIDTH, toy_run

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_export(tmp_path_factory.mktemp("exports") / "onnx")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("runs") / "run", sources=("llm",))
    (run / "config.toml").write_text("")
    catalogue = load(run / "prepare").catalogue
    both: tuple[Horizon, ...] = ("long", "short")
    recipe = Recipe(catalogue.size, 8, "sr-gnn", {}, "gated", {}, both, both, WIDTH, predictor=True)
    torch.manual_seed(0)
    folder = run / "train/llm/seed-0"
    facts = {"seed": 0}
    save_model(folder, build(recipe), recipe=recipe, catalogue=catalogue_hash(catalogue), facts=facts)
    return run


def test_an_exported_model_answers(export: Path) -> None:
    found = ExportedRecommender.load(export).recommend("red lamp, i02", k=3)
    # after item i the toy model recommends i + 1, i + 2 ...
    assert [item.id for item in found.items] == [3, 4, 5]
    assert [item.score for item in found.items] == [20, 19, 18]
    assert [item.key for item in found.items] == ["i03", "i04", "i05"]
    assert [one.how for one in found.session] == ["year or article", "key"]
    assert (found.engine, found.intents) == ("onnx, cpu", None)
    assert json.loads(json.dumps(found.as_dict())) == found.as_dict()


def test_an_exported_model_sees_the_last_clicks_and_leaves_out_all(export: Path) -> None:
    recommender = ExportedRecommender.load(export)
    session = [11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]  # the toy model takes 7 clicks
    found = recommender.recommend(session, exclude_seen=True, k=5).items
    assert [item.id for item in found] == [12, 13, 14, 15, 16]
    assert recommender.recommend(session, exclude_seen=False, k=5).items[0].id == 11


def test_who_says_nothing_gets_lists_as_in_training(export: Path) -> None:
    """The record says whether own items are left out; one of an earlier version left them out."""
    session = [11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert ExportedRecommender.load(export).recommend(session, k=5).items[0].id == 12
    for excluded, first in ((False, 11), (True, 12)):
        record = store.read_record(export / "artefact.json")
        store.write_record(export / "artefact.json", record | {"exclude_seen": excluded})
        recommender = ExportedRecommender.load(export)
        assert recommender.recommend(session, k=5).items[0].id == first
        assert recommender.recommend(session, k=5, exclude_seen=not excluded).items[0].id == 23 - first


@pytest.mark.parametrize(
    ("session", "options", "message"),
    [
        ("Casablanca", {"unknown": "fail"}, "no item is called 'Casablanca'"),
        ([], {}, "the session is empty"),
        ([21], {}, "ids are 1 to 20"),
        ([1], {"k": 6}, "the exported list has 5 items; export with a larger -k"),
        ([1], {"k": 0}, "k = 0"),
        ([1], {"source": "cache"}, "takes no intents"),
    ],
)
def test_bad_input_to_an_exported_model(
    export: Path, session: list[int | str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        ExportedRecommender.load(export).recommend(session, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_intents_of_known_sessions_go_into_the_exported_model(export: Path) -> None:
    recommender = ExportedRecommender.load(toy_export(export.parent / "intents", intents=True))
    assert recommender.recommend([1]).intents == recommender.recommend([1], source="none").intents
    without = recommender.recommend([2, 3], source="none").items[0].score

    class Known:
        def find(self, ids: list[int], source: str) -> object:
            from llm4sbr.serving.recommendation import Explanation

            return (torch.full((1, 2, 4), 0.5), Explanation("nearest")) if source == "nearest" else None

    recommender.live = Known()  # type: ignore[assignment]
    found = recommender.recommend([2, 3])
    assert found.intents is not None
    assert found.intents.source == "nearest"
    assert found.items[0].score == without + 2 * 4 * 0.5  # the toy model adds the intents' sum
    with pytest.raises(InputError, match="export with --intents predictor"):
        recommender.recommend([2, 3], source="predictor")


def test_an_export_of_another_catalogue_than_the_run_has(run: Path) -> None:
    toy_export(run / "export/onnx", intents=True)
    with pytest.raises(StoreError, match="another catalogue"):
        ExportedRecommender.load(run / "export/onnx", run=run)


def test_an_export_needs_no_torch(export: Path) -> None:
    code = (
        "import sys; from llm4sbr.cli import _guarded\n"
        f"assert _guarded(['recommend', {str(export)!r}, '--session', 'i01', '--json']) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["items"][0]["id"] == 2


def echo(session: str | list[str | int]) -> Recommendation:
    if session == "bad":
        raise InputError("no item\nis called so")
    return Recommendation([], [], str(session), None, None)


def test_every_line_is_answered() -> None:
    lines = [
        b"\xef\xbb\xbfa, b\n",
        b"\n",
        b"bad\r\n",
        b'["x", 3]\n',
        b"[3.5]\n",
        b"\xff\xfe\n",
        b"[open\n",
        b"x" * (LONGEST + 1),
    ]
    found = [reply.value for reply in replies(lines, echo)]
    assert [one["line"] for one in found] == [1, 3, 4, 5, 6, 7, 8]
    assert [one.get("variant") for one in found] == ["a, b", None, "['x', 3]", None, None, "[open", None]
    assert found[1]["error"] == "no item is called so"
    assert "whole numbers" in found[3]["error"]
    assert found[4]["error"] == "not UTF-8 from byte 0 on"
    assert "at most" in found[6]["error"]


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=5))
def test_no_line_stops_the_stream(export: Path, lines: list[bytes]) -> None:
    recommender = ExportedRecommender.load(export)
    found = list(replies([*lines, b"i01"], recommender.recommend))
    assert len(found) == 1 + sum(bool(line.strip()) for line in lines)
    assert found[-1].value["line"] == len(lines) + 1
    assert found[-1].good
    for reply in found:
        assert json.loads(json.dumps(reply.value)) == reply.value


def test_lines_that_come_one_by_one_are_answered_one_by_one(export: Path) -> None:
    command = [sys.executable, "-m", "llm4sbr", "recommend", str(export), "--session", "-", "-k", "2"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin
        assert child.stdout
        answers = []
        for line in ("i01", "[1.5]", "Blue Chair (1991) | i05"):
            child.stdin.write(line + "\n")
            child.stdin.flush()
            answers.append(json.loads(child.stdout.readline()))  # before the next line is written
        child.stdin.close()
        assert child.stdout.read() == ""
        assert child.wait(timeout=20) == 2  # one line was bad
    assert [item["id"] for item in answers[0]["items"]] == [2, 3]
    assert "a session is a text" in answers[1]["error"]
    assert [item["id"] for item in answers[2]["items"]] == [6, 7]


def test_a_reader_that_goes_away_ends_the_stream(export: Path) -> None:
    command = [sys.executable, "-m", "llm4sbr", "recommend", str(export), "--session", "-"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout
    child.stdout.close()
    _, errors = child.communicate(b"i01\n" * 50, timeout=30)
    assert (errors, child.returncode) == (b"", 0)


@pytest.mark.parametrize(
    ("redirected", "message"),
    [("< /dev/null > /dev/full", ""), ("> /dev/full", "No space left"), ("<&-", "standard input is closed")],
)
def test_standard_streams_that_do_not_work(export: Path, redirected: str, message: str) -> None:
    command = f'echo i01 | "$0" -m llm4sbr recommend "$1" --session - {redirected}'
    found = subprocess.run(["sh", "-c", command, sys.executable, export], capture_output=True, check=False)
    assert found.returncode == (2 if message else 0)
    lines = found.stderr.decode().splitlines()
    assert len(lines) == bool(message)
    assert message in "".join(lines)


def test_on_the_command_line(run: Path, export: Path, capsys: Output) -> None:
    assert (
        _guarded(["recommend", str(run), "--session", "red lamb (1990), i03", "--source", "predictor"]) == 0
    )
    shown = capsys.readouterr().out
    assert "'red lamb (1990)' taken for Red Lamp (1990) (spelling)" in shown
    assert "Predicted intents of the LLM" in shown
    assert _guarded(["recommend", str(export), "--session", "i01"]) == 0
    assert "by onnx, cpu" in capsys.readouterr().out
    assert _guarded(["recommend", str(export), "--session", "i01", "--variant", "plain"]) == 2
    assert "--variant" in capsys.readouterr().err
    assert _guarded(["recommend", str(run), "--session", "i01", "--from", "tensorrt"]) == 2
    assert "run llm4sbr export first" in capsys.readouterr().err
    assert _guarded(["recommend", str(run.parent / "nothing"), "--session", "i01"]) == 2
    assert "nothing: no such run" in capsys.readouterr().err
    (export.parent / "half").mkdir()  # as an engine that was not built leaves it
    for command in (["recommend", "--session", "i01"], ["export"]):
        assert _guarded([command[0], str(export.parent / "half"), *command[1:]]) == 2
        assert "half: not a run directory (no config.toml)" in " ".join(capsys.readouterr().err.split())


def test_what_no_line_could_be_answered_with_is_said_before_the_first(export: Path, capsys: Output) -> None:
    assert _guarded(["recommend", str(export), "--session", "-", "-k", "50"]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert "k = 50" in printed.err
