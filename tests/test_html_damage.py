"""The HTML report of damaged runs, and the commands that write it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from llm4sbr import pipeline
from llm4sbr.cli import _guarded
from llm4sbr.errors import DamagedError, StoreError
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT
from llm4sbr.report.page.write import write_run

sys.path.insert(0, str(Path(__file__).parent))
from html_pages import WHOLE, hostile_data, hostile_run, parsed, rewrite, safe, sections

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_run(hostile_data(tmp_path_factory.mktemp("html")), seeds=1)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


GONE: dict[str, tuple[str, set[str]]] = {
    "localize": ("localize", {"sessions"}),
    "infer": ("infer", {"answers"}),
    "ranks": ("evaluate/ranks.safetensors", {"sessions"}),
    "metrics": ("evaluate/metrics.json", {"results", "breakdown", "changes", "sessions"}),
    "data": ("prepare", {"data", "sessions"}),
    "models": ("train", {"training", "sessions"}),
    "one model": ("train/llm/seed-0/model.safetensors", {"sessions"}),
    "settings": ("resolved.toml", {"settings"}),
}


@pytest.mark.parametrize("what", GONE)
def test_what_is_gone_is_named_and_the_rest_is_shown(copy: Path, what: str) -> None:
    name, lost = GONE[what]
    gone = copy / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    page = parsed(write_run(copy))
    safe(page)
    assert sections(page) == WHOLE - lost
    if what != "models":  # without any log there is nothing that could not be read
        assert name.split("/")[-1] in page.text.partition("Not shown")[2]


@pytest.mark.parametrize(
    "name",
    ["evaluate/metrics.json", "evaluate/changes.json", "evaluate/ranks.safetensors", "infer/infer.json"],
)
def test_a_truncated_file_is_named_and_nothing_written(copy: Path, name: str) -> None:
    path = copy / name
    (copy / REPORT).unlink()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedError, match=f"^{re.escape(str(path))}: changed since it was written"):
        write_run(copy)
    assert not (copy / REPORT).exists()


def test_results_of_another_layout_are_named(copy: Path) -> None:
    rewrite(copy, {"k": [20], "rows": [{"kind": "plain"}]})
    page = parsed(write_run(copy))
    assert "metrics.json: not a table of results (KeyError: 'name')" in page.text
    assert {"data", "training", "answers"} <= sections(page)


def test_half_a_surrogate_pair_does_not_stop_the_report(copy: Path) -> None:
    path = copy / "versions.json"
    path.write_text(json.dumps({"python": "\ud800"}), encoding="utf-8")
    assert "python  ?" in parsed(write_run(copy)).text


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: Output) -> None:
    with pytest.raises(StoreError, match="not a run directory"):
        write_run(tmp_path)
    assert _guarded(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_command_line_names_the_report(copy: Path, capsys: Output) -> None:
    report = copy / REPORT
    assert _guarded(["run", str(copy), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert (
        f"\n\nMore: llm4sbr evaluate {copy}\nReport: {report}\nNext: llm4sbr recommend {copy} --session "
        in shown
    )
    words = shlex.split(shown.splitlines()[-1].removeprefix("Next: llm4sbr "))
    assert _guarded(words) == 0  # what it advises works
    capsys.readouterr()
    assert _guarded(["evaluate", str(copy), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(report)
    report.unlink()
    assert _guarded(["report", str(copy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(report)}
    assert report.exists()


def test_a_report_never_outlives_what_it_tells_of(copy: Path) -> None:
    (copy / REPORT).write_text("old", encoding="utf-8")
    pipeline.execute(copy, {}, progress=Progress(quiet=True))
    assert (copy / REPORT).read_text(encoding="utf-8") == "old"  # nothing was redone
    pipeline.execute(copy, {}, until="train", force=True, progress=Progress(quiet=True))
    assert not (copy / REPORT).exists()
    pipeline.execute(copy, {}, progress=Progress(quiet=True))
    assert sections(parsed(copy / REPORT)) == WHOLE
