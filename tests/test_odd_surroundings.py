"""Odd users, machines and texts: file modes, no home, little memory, escape sequences, endless titles."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from llm4sbr import pipeline, store
from llm4sbr.cli import _guarded
from llm4sbr.errors import Llm4sbrError
from llm4sbr.printable import CELL, CONTROL, escaped, printable
from llm4sbr.progress import Progress
from llm4sbr.report.terminal.layout import grid, show
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.system import memory
from llm4sbr.testing.toy import toy_log
from llm4sbr.testing.toy_export import toy_export

sys.path.insert(0, str(Path(__file__).parent))
from toy_runs import settings

Output = pytest.CaptureFixture[str]
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e Lamp"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on data whose titles, keys and attributes are hostile, and one title has a megabyte."""
    base = tmp_path_factory.mktemp("odd")
    given = settings(base)
    with (base / "log/items.csv").open(encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    for row in rows[1:]:
        row[1] = f"{EVIL} {row[1]}"
    rows[3][1] = "endless " * 130_000
    with (base / "log/items.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    before = os.umask(0o027)
    try:
        pipeline.execute(base / "run", given, progress=Progress(quiet=True))
    finally:
        os.umask(before)
    return base / "run"


def modes(folder: Path) -> dict[str, str]:
    """Files and folders whose mode is not what the umask 027 makes of it."""
    found = {path: path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert len(found) > 3
    return {
        str(path): oct(mode) for path, mode in found.items() if mode != (0o750 if path.is_dir() else 0o640)
    }


def test_all_files_have_the_mode_that_the_user_wants(whole: Path) -> None:
    assert not modes(whole)


@pytest.mark.slow
def test_and_so_have_those_of_an_export(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    before = os.umask(0o027)
    try:
        assert _guarded(["export", str(run), "-k", "5", "--quiet"]) == 0
    finally:
        os.umask(before)
    assert not modes(run / "export")


def test_a_script_may_be_run_by_who_may_read_it(tmp_path: Path) -> None:
    for umask, expected in ((0o027, 0o750), (0o077, 0o700), (0o022, 0o755)):
        before = os.umask(umask)
        try:
            (tmp_path / oct(umask)).write_text("")
        finally:
            os.umask(before)
        store.make_executable(tmp_path / oct(umask))
        assert (tmp_path / oct(umask)).stat().st_mode & 0o777 == expected


SHOWN = [
    ["prepare", "RUN"],
    ["infer", "RUN"],
    ["localize", "RUN"],
    ["train", "RUN"],
    ["evaluate", "RUN"],
    ["intents", "show", "RUN"],
    ["recommend", "RUN", "--session", "i03,i04"],
    ["recommend", "RUN", "--session", f"i04,{EVIL}"],
    ["recommend", "RUN", "--session", EVIL],
    ["recommend", "RUN", "--session", EVIL, "--json"],
    ["recommend", "RUN", "--session", "i03", "--json"],
    ["recommend", f"RUN{EVIL}", "--session", "i03"],
    ["recommend", "RUN", "--session", "i03", "--variant", EVIL],
    [EVIL],
    ["config", "RUN", "--set", EVIL],
    ["config", "RUN", "--set", f"train.dim={EVIL}"],
    ["plugins", "list", EVIL],
]


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: "-".join(command[:2])[:30])
def test_nothing_that_others_wrote_moves_the_terminal(
    whole: Path, capsys: Output, command: list[str]
) -> None:
    code = _guarded([word.replace("RUN", str(whole)) for word in command])
    printed = capsys.readouterr()
    assert code in (0, 2)
    assert not CONTROL.search(printed.out.replace("\u2026", "") + printed.err)
    if "--json" not in command:
        assert max(map(len, (printed.out + printed.err).splitlines())) < 6000


def test_a_terminal_gets_colours_and_nothing_else() -> None:
    said = StringIO()
    progress = Progress(console=Console(file=said, force_terminal=True, width=80))
    progress.note(f"{EVIL} [/red] [bold]x")
    with progress.task("work", 3) as advance:
        advance(1, f"{EVIL} [/red]")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.getvalue())
    assert "[/red] [bold]x" in text
    assert not CONTROL.search(text.replace("\r", ""))
    out = StringIO()
    show(grid(["a"], [[EVIL], ["x" * 10**6]]), file=out)
    assert not CONTROL.search(out.getvalue())
    assert len(out.getvalue()) < 3 * CELL


def test_json_stays_what_it_is() -> None:
    text = json.dumps({"title": EVIL, "lines": "a\nb"}, ensure_ascii=False)
    assert json.loads(escaped(text)) == json.loads(text)
    assert not CONTROL.search(escaped(text))
    assert printable("Ä 日本\tx\ny") == "Ä 日本\tx\ny"


@pytest.mark.slow
def test_titles_of_a_megabyte_are_cut_where_they_are_shown(whole: Path, capsys: Output) -> None:
    assert _guarded(["recommend", str(whole), "--session", "i02,i03", "--exclude-seen"]) == 0
    assert len(capsys.readouterr().out) < 20_000
    assert _guarded(["recommend", str(whole), "--session", "e" * 10**6]) == 0
    assert _guarded(["recommend", str(whole), "--session", "e" * 10**6, "--unknown", "fail"]) == 2
    shown = capsys.readouterr()
    assert len(shown.out) + len(shown.err) < 16_000
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "endless" in page
    assert len(page) < 3_000_000


def without_home(arguments: list[str], place: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """The command of a user whom the system does not know."""
    code = (
        "import os, pwd\n"
        "def unknown(*_): raise KeyError('no such user')\n"
        "pwd.getpwuid = pwd.getpwnam = unknown\n"
        f"from llm4sbr.cli import main\nmain({arguments!r})\n"
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "LLM4SBR_CACHE", "XDG_CACHE_HOME")
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=place, env=kept | more, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_no_home_is_one_line(tmp_path: Path) -> None:
    toy_log(tmp_path / "log")
    prepare = ["prepare", "run", "--dataset", "csv", "--data", "log"]
    assert without_home(prepare, tmp_path).returncode == 0  # nothing is kept there
    done = without_home(
        ["infer", "run", "--llm", "openai:m"], tmp_path, OPENAI_BASE_URL="http://127.0.0.1:9/v1"
    )
    assert done.returncode == 2
    assert "set LLM4SBR_CACHE to a folder" in done.stderr
    done = without_home(["prepare", "~/run", *prepare[2:]], tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Set HOME" in done.stderr
    assert "internal error" not in done.stderr


def test_a_header_that_no_table_has(tmp_path: Path, capsys: Output) -> None:
    log = toy_log(tmp_path / "log")
    for first in ("a" * 200_000, '"' + "a" * 200_000, ",".join(["a"] * 200_000)):
        (log / "interactions.csv").write_text(f"user_id,item_id,timestamp,{first}\nu,i01,1700000000\n")
        assert _guarded(["prepare", str(tmp_path / "run"), "--dataset", "csv", "--data", str(log)]) in (0, 2)
        found = capsys.readouterr().err
        assert "internal error" not in found
        assert len(found) < 6000


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        ),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("unable to mmap 80 bytes from file <x>: Cannot allocate memory (12)"),
        pl.exceptions.PanicException("memory allocation of 512 bytes failed"),
    ],
)
def test_little_memory_is_said(error: BaseException) -> None:
    assert memory.shortage(error).startswith("not enough memory")
    assert not memory.shortage(ValueError("no memory of this"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "recommend"])
def test_commands_in_little_memory_are_one_line(whole: Path, tmp_path: Path, command: str) -> None:
    words = {
        "prepare": ["prepare", "run", "--dataset", "csv", "--data", str(whole.parent / "log")],
        "recommend": ["recommend", str(whole), "--session", "i03"],
    }[command]
    for megabytes in (300, 700, 1200):
        code = (
            f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({megabytes} * 2**20,) * 2)\n"
            f"from llm4sbr.cli import main\nmain({words!r})\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        # libraries abort where they cannot go on, and polars goes on without its binary
        if done.returncode >= 0 and "Polars binary is missing" not in done.stderr:
            assert "internal error" not in done.stderr, (megabytes, done.stderr)
            assert "Traceback" not in done.stderr, (megabytes, done.stderr)


def test_a_panic_of_a_library_is_one_line(
    whole: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(*_: Any, **__: Any) -> None:
        raise pl.exceptions.PanicException("index out of bounds")

    monkeypatch.setattr(pl, "read_parquet", panic)
    assert _guarded(["intents", "stats", str(whole)]) == 2
    assert "not a whole Parquet file (index out of bounds)" in capsys.readouterr().err


VALUES: list[Any] = [None, 3, -1, 10**30, "x", [], ["a"], {}, {"a": 1}, True, 1e308, EVIL]


@pytest.mark.slow
def test_an_edited_record_is_one_line(tmp_path: Path) -> None:
    folder = toy_export(tmp_path / "export")
    path = folder / "artefact.json"
    record, lines = json.loads(path.read_text()), []
    for key in record:
        for value in [*VALUES[::3], EVIL, ...]:
            edited = {name: one for name, one in record.items() if name != key}
            path.write_text(json.dumps(edited if value is ... else edited | {key: value}))
            try:
                ExportedRecommender.load(folder).recommend([3], k=1).as_dict()
            except Llm4sbrError as error:
                lines.append(str(error))
    assert not [line for line in lines if "\n" in line]


@pytest.mark.slow
def test_edited_records_of_a_run_are_one_line(whole: Path, tmp_path: Path, capsys: Output) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("versions.json", "evaluate/stage.json", "train/models.json", "evaluate/metrics.json"):
        before = (run / name).read_text()
        record = json.loads(before)
        record.pop("sha256", None)
        for key in record:
            for value in VALUES[1::3]:
                (run / name).write_text(json.dumps(record | {key: value}))
                for command in (["report", str(run)], ["recommend", str(run), "--session", "i03"]):
                    assert _guarded(command) in (0, 2), (name, key, value, capsys.readouterr().err)
        (run / name).write_text(before)
