"""One flipped bit in any file of a run: a command fails with one line, or says what it said before."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm4sbr import pipeline
from llm4sbr.cli import _guarded
from llm4sbr.progress import Progress
from llm4sbr.report import REPORT
from llm4sbr.stages.export import Export, export
from llm4sbr.stages.refit import refit

sys.path.insert(0, str(Path(__file__).parent))
from toy_runs import settings

Output = pytest.CaptureFixture[str]
QUIET = Progress(quiet=True)

SESSION = ("--session", "i03, i04", "-k", "5")
COMMANDS = {
    "recommend": ("recommend", "RUN", *SESSION, "--json"),
    "tested": ("recommend", "RUN", *SESSION, "--json", "--variant", "llm", "--no-refitted"),
    "nearest": ("recommend", "RUN", *SESSION, "--json", "--variant", "llm", "--source", "nearest"),
    "exported": ("recommend", "RUN/export/onnx", *SESSION, "--json"),
    "report": ("report", "RUN"),
    "prepare": ("prepare", "RUN", "--json"),
    "infer": ("infer", "RUN", "--json"),
    "evaluate": ("evaluate", "RUN", "--json"),
    "show": ("intents", "show", "RUN", "--json"),
    "stats": ("intents", "stats", "RUN", "--json"),
    "verify": ("intents", "verify", "RUN", "--json"),
    "config": ("config", "RUN"),
}
"""What shows something of a run. Of `report`, that is the page."""

MEASURED = re.compile(
    r'"(seconds|peak_memory|bytes|samples_per_second)[^"]*": [\d.e-]+|\d[\d.,]* (ms|s|min|[kMG]B)\b|'
    r"llm4sbr [\w.+]+, \d+-\d+-\d+ [\d:]+ UTC"
)
"""What a repeated stage measures anew, and when a page was written."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with intents, a refit and an export."""
    base = tmp_path_factory.mktemp("flips")
    run = base / "whole"
    given = settings(base)
    given["infer"]["controls"] = ["shuffled", "none"]
    given["train"]["neighbours"] = 4
    given["train"]["backbone"] = "stamp"
    config = pipeline.execute(run, given, progress=QUIET)
    refit(run, config, QUIET, variant="llm")
    export(run, Export(k=5, variant="llm"), QUIET)
    (run / "export" / "onnx-llm").rename(run / "export" / "onnx")
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def said(run: Path, name: str, capsys: Output) -> tuple[int, str, str]:
    """Exit code, what was shown, and the last line of standard error."""
    capsys.readouterr()
    code = _guarded([word.replace("RUN", str(run)) for word in COMMANDS[name]] + ["--quiet"])
    found = capsys.readouterr()
    shown = found.out
    if code == 0 and name == "report":
        shown = (run / REPORT).read_text(encoding="utf-8")
    return code, MEASURED.sub("", shown), (found.err.splitlines() or [""])[-1]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def digit(path: Path, before: str) -> None:
    """Flip the bit after which the first digit behind a text is another digit."""
    place = path.read_bytes().index(before.encode()) + len(before)
    while not chr(path.read_bytes()[place]).isdigit():
        place += 1
    flip(path, 8 * place)


@pytest.mark.parametrize(
    ("name", "before", "command"),
    [
        ("evaluate/metrics.json", '"mean": ', "report"),
        ("evaluate/metrics.json", '"mean": ', "tested"),
        ("evaluate/stage.json", '"seconds": ', "evaluate"),
        ("infer/infer.json", '"answered": ', "report"),
        ("localize/localize.json", '"distinct": ', "report"),
        ("prepare/stats.json", '"catalogue": ', "prepare"),
        ("prepare/stats.json", '"catalogue": ', "config"),
        ("train/llm/seed-0/log.jsonl", '"recommendation": ', "report"),
        ("train/llm/seed-0/model.json", '"valid": ', "tested"),
        ("export/onnx/artefact.json", '"exclude_seen"', "exported"),
        ("resolved.toml", "dim = ", "report"),
        ("config.toml", "dim = ", "config"),
        ("versions.json", '"llm4sbr": ', "report"),
    ],
)
def test_a_number_that_is_another_one_is_not_shown(
    run: Path, capsys: Output, name: str, before: str, command: str
) -> None:
    expected = said(run, command, capsys)
    digit(run / name, before)
    code, shown, line = said(run, command, capsys)
    if (code, shown) != expected[:2]:  # a stage may have been made again
        assert (code, shown) == (2, "")
        assert name in line
        assert "changed since it was written" in line


def test_damaged_intents_and_answers_are_not_shown(run: Path, capsys: Output) -> None:
    for path in [*run.glob("localize/llm/*.safetensors"), *run.glob("infer/llm/*.parquet")]:
        before = path.read_bytes()
        flip(path, 8 * len(before) - 80)
        codes = {name: said(run, name, capsys)[0] for name in ("show", "nearest", "report")}
        assert 2 in codes.values(), path
        path.write_bytes(before)


def flips(whole: Path, count: int) -> Iterator[tuple[Path, int, str]]:
    """File, bit and command, all by chance, from each file equally often."""
    chance = random.Random(0)
    files = sorted(path for path in whole.rglob("*") if path.is_file() and path.stat().st_size)
    files = [path for path in files if path.name not in (REPORT, ".lock")]  # products, not sources
    for _ in range(count):
        path = chance.choice(files)
        bits = 8 * path.stat().st_size
        # most of a file of tensors is numbers: half of the flips are in the head, where the structure is
        bit = chance.randrange(bits) if chance.random() < 0.5 else chance.randrange(min(bits, 4096))
        yield path.relative_to(whole), bit, chance.choice(list(COMMANDS))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_flips(whole: Path, tmp_path: Path, capsys: Output) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    expected = {name: said(run, name, capsys) for name in COMMANDS}
    assert {code for code, _, _ in expected.values()} == {0}
    wrong = []
    for name, bit, command in flips(whole, 1000):
        shutil.rmtree(run)
        shutil.copytree(whole, run)
        flip(run / name, bit)
        code, shown, line = said(run, command, capsys)
        right = (code, shown) == expected[command][:2]
        if not right and (code != 2 or shown or not line.startswith("error: ")):
            wrong.append((str(name), bit, command, code, shown[:200], line))
    assert not wrong, json.dumps(wrong, indent=1)
