"""What a stopped `localize` leaves, and answers that do not belong to the data."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import StoreError
from llm4sbr.intents import IntentStore
from llm4sbr.testing.toy_run import toy_run

sys.path.insert(0, str(Path(__file__).parent))

from toy_answers import last_titles, localize, use_letters, write_answers


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_letters(monkeypatch, tmp_path / "cache")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "run", sources=())


@pytest.fixture
def prepared(run: Path) -> Prepared:
    return load(run / "prepare")


def test_finished_sources_of_an_interrupted_attempt_are_kept(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    for source in ("llm", "shuffled", "item-text"):
        write_answers(run, source, {"long": titles, "short": titles})
    out, summary = localize(run)
    shard = "intents-00000.safetensors"
    written = {source: (out / source / shard).stat().st_mtime_ns for source in summary["sources"]}
    (out / "shuffled" / "manifest.json").unlink()  # killed before it was finished
    damaged = bytearray((out / "item-text" / shard).read_bytes())
    damaged[-1] ^= 1
    (out / "item-text" / shard).write_bytes(damaged)
    out, again = localize(run)
    assert again == summary
    assert (out / "llm" / shard).stat().st_mtime_ns == written["llm"]
    assert (out / "shuffled" / shard).stat().st_mtime_ns > written["shuffled"]
    IntentStore.open(out / "item-text").verify()


KILLED = """
import os, signal, sys
from pathlib import Path
from llm4sbr import config, registry
from llm4sbr.intents import writer
from llm4sbr.progress import Progress
from llm4sbr.stages import localize as stage
from llm4sbr.testing.localizers import LetterEncoder

def die(self, rows):
    write(self, rows)
    if self.folder.name == "shuffled":
        os.kill(os.getpid(), signal.SIGKILL)  # the shard is there, the manifest is not

create, write = registry.create, writer._Shards._write
registry.create = lambda kind, *a, **o: LetterEncoder() if kind == "encoders" else create(kind, *a, **o)
writer._Shards._write = die
run = Path(sys.argv[1])
settings = config.build({"localize": {"encoder": "letters", "f": 2}})
stage.localize(run, run / "localize.tmp", settings, Progress(quiet=True))
"""


def test_kill_9_loses_the_source_at_work_only(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    for source in ("llm", "shuffled"):
        write_answers(run, source, {"long": titles, "short": titles})
    out = run / "localize.tmp"
    out.mkdir()
    ended = subprocess.run([sys.executable, "-c", KILLED, str(run)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (out / "shuffled" / "keys-00000.safetensors").exists()
    assert not (out / "shuffled" / "manifest.json").exists()
    kept = (out / "llm" / "intents-00000.safetensors").stat().st_mtime_ns
    localize(run)
    assert (out / "llm" / "intents-00000.safetensors").stat().st_mtime_ns == kept
    for source in ("llm", "shuffled"):
        opened = IntentStore.open(out / source)
        opened.verify()
        assert len(opened) == len(titles)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"long": {123: "Red Lamp"}, "short": {123: "Red Lamp"}}, "sessions that prepare does not have"),
        ({"long": {}}, "short.parquet: "),
    ],
)
def test_answers_that_do_not_fit(run: Path, answers: Mapping[str, Mapping[int, str]], message: str) -> None:
    write_answers(run, "llm", answers)
    with pytest.raises(StoreError) as caught:
        localize(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_answers_for_one_sample(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    write_answers(run, "llm", {"long": titles, "short": titles})
    path = run / "infer" / "llm" / "long.parquet"
    table = pl.read_parquet(path)
    pl.concat([table, table[:1]]).write_parquet(path)
    with pytest.raises(StoreError, match="two answers"):
        localize(run)
