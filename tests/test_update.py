"""`llm4sbr update`: the gate, what it refuses, and three days with a server that is never down."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from llm4sbr import pipeline, store
from llm4sbr.cli import cli
from llm4sbr.data.prepared import load
from llm4sbr.errors import InputError, StoreError
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.stages.export import Export, export
from llm4sbr.stages.refit import refit
from llm4sbr.testing import training
from llm4sbr.testing.live_server import LiveServer, live_server
from llm4sbr.testing.toy import toy_log
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.updating.gate import Gate, compare, translated

sys.path.insert(0, str(Path(__file__).parent))

from toy_runs import settings

QUIET = Progress(quiet=True)


def gate(old: float, new: float, tolerance: float = 0.02, mrr: float = 0.1) -> Gate:
    one, two = {"HR@5": old, "MRR@5": 0.1}, {"HR@5": new, "MRR@5": mrr}
    return Gate(tolerance, 10, 4, None, 0, one, two)


def test_what_is_not_worse():
    assert gate(0.5, 0.5).passed
    assert gate(0.5, 0.9).passed
    assert gate(0.5, 0.49).passed  # 2% of 0.5 is 0.01
    assert not gate(0.5, 0.489).passed
    assert not gate(0.5, 0.49, tolerance=0.0).passed
    assert gate(0.5, 0.0, tolerance=1.0).passed
    assert gate(0.0, 0.0).passed
    assert gate(0.5, 0.5, mrr=0.0981).passed
    assert not gate(0.5, 0.9, mrr=0.0979).passed
    assert gate(0.5, 0.489).sentence() == (
        "HR@5 50.00% -> 48.90%, MRR@5 10.00% -> 10.00% on 10 samples of the newest 4 sessions: worse "
        "(tolerance 2%)"
    )


def test_samples_in_another_catalogues_ids_by_hand():
    sessions = Sessions(torch.tensor([1, 2, 3, 4, 2, 1]), torch.tensor([0, 4, 6]))
    # Ids 1, 2, 3, 4 are 7, 0 (unknown), 5, 6 there.
    known = torch.tensor([0, 7, 0, 5, 6])
    start, end = torch.tensor([0, 0, 0, 1, 4]), torch.tensor([1, 2, 3, 2, 5])
    other, samples, rows = translated(sessions, Samples(start, end, end), known)
    # Left out: a target that is unknown, and two samples of no known click.
    assert rows.tolist() == [1, 2]
    spans = [other.items[a:b].tolist() for a, b in zip(samples.start, samples.end, strict=True)]
    assert spans == [[7], [7, 5]]
    assert other.items[samples.end].tolist() == [5, 6]
    nothing, none, rows = translated(sessions, Samples(start, end, end), known * 0)
    assert (len(nothing.items), len(none.key), len(rows)) == (0, 0, 0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`good`, trained, and `bad`, hardly trained, on the same data."""
    base = tmp_path_factory.mktemp("gate")
    for name, rate in (("good", 0.01), ("bad", 1e-9)):
        toy_run(base / name, sources=())
        training.trained(base / name, _config(rate))
    return base


def _config(rate: float) -> Any:
    return training.settings("none", controls=(), learning_rate=rate, neighbours=0, counted=())


def test_the_worse_one_does_not_pass(two: Path) -> None:
    to_good = compare(two / "bad", two / "good", k=3, newest=1.0, tolerance=0.0)
    to_bad = compare(two / "good", two / "bad", k=3, newest=1.0, tolerance=0.0)
    assert to_good.passed
    assert not to_bad.passed
    assert (to_good.old, to_good.new) == (to_bad.new, to_bad.old)
    prepared = load(two / "good/prepare")
    assert to_good.samples == len(prepared.samples["test"].key)
    assert (to_good.sessions, to_good.only_new) == (10, 0)


def test_items_that_the_old_model_does_not_know_count_against_it(two: Path, tmp_path: Path) -> None:
    toy_run(tmp_path / "wider", items=30, sources=())
    training.trained(tmp_path / "wider", _config(0.01))
    found = compare(two / "good", tmp_path / "wider", k=3, newest=1.0, tolerance=0.0)
    assert 0 < found.only_new < found.samples
    assert found.old["HR@3"] <= 1 - found.only_new / found.samples


def test_without_a_sample_nothing_is_compared(two: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(two / "good", tmp_path / "run"))
    refit(run, _config(0.01), QUIET)  # trained on all sessions, those of the test as well
    with pytest.raises(InputError, match=r"no test sample .* the old one stays"):
        compare(run, two / "good", k=3, newest=1.0, tolerance=0.0)
    assert compare(two / "good", run, k=3, newest=1.0, tolerance=1.0).passed


def asked(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["update", *map(str, arguments)])


def test_refused_before_anything_is_done(tmp_path: Path) -> None:
    assert isinstance(asked(tmp_path / "run").exception, StoreError)
    found = asked(tmp_path / "run", "--newest", "soon")
    assert (found.exit_code, "no time such as 1d" in found.output) == (2, True)
    for text in ("0d", "-1d", "nand", "infd", "d", ""):
        assert asked(tmp_path / "run", "--newest", text).exit_code == 2
    assert not list(tmp_path.iterdir())


DAYS = {1: (60, 20), 2: (90, 22), 3: (120, 24)}
"""Day of the shop -> sessions and items of the log so far; each session has a date of its own."""


def _day(base: Path, day: int) -> Path:
    """The log at the end of a day: what was there, and that day's sessions on a grown catalogue."""
    folder = toy_log(base / f"day{day}", sessions=DAYS[day][0], items=DAYS[day][1])
    if day > 1:
        before = (base / f"day{day - 1}/interactions.csv").read_text()
        lines = (folder / "interactions.csv").read_text().splitlines(True)[1:]
        new = [line for line in lines if int(line[1:4]) >= DAYS[day - 1][0]]
        (folder / "interactions.csv").write_text(before + "".join(new))
    return folder


@pytest.mark.slow
def test_three_days_and_a_server_that_is_never_down(tmp_path: Path) -> None:
    given = settings(tmp_path)
    given["train"] |= {"epochs": 4, "plain": False, "learning_rate": 0.01}
    given["infer"] |= {"controls": []}
    given["data"] |= {"path": str(_day(tmp_path, 1)), "valid": 0.05, "test": 0.05}
    run, shop = tmp_path / "run", tmp_path / "shop"
    pipeline.execute(run, given, progress=QUIET)
    export(run, Export(k=7), QUIET)
    (run / "export/onnx").rename(shop)
    with live_server(shop, "--watch", "0.1") as server, asking(server) as statuses:
        first = server.wait_for("model ready")["version"]
        common = ("--serve", shop, "--newest", "5d", "--tolerance", 0.1, "--json", "-q")
        # The second day: new items; not worse, so handed over.
        found = asked(run, "--data", _day(tmp_path, 2), *common)
        assert found.exit_code == 0, found.output
        told = json.loads(found.output)
        assert told["handed_over"]
        assert told["gate"]["passed"]
        assert told["gate"]["samples"] > 0
        assert (told["served"], told["before"]) == (str(shop), f"{run}.before")
        record = store.read_record(shop / "artefact.json")
        assert (record["k"], record["num_items"], record["warm"]["new_items"]) == (7, 22, 2)
        second = server.wait_for("model ready", count=2)["version"]
        assert second != first
        assert server.ask("/recommend", {"session": ["i22"], "k": 3}).status == 200

        # The third day goes wrong: the old model stays, in the run and in the server.
        kept = {path: path.read_bytes() for path in run.rglob("model.*") if path.is_file()}
        found = asked(
            run, "--data", _day(tmp_path, 3), *common, "--set", "train.learning_rate=3", "--tolerance", 0
        )
        assert found.exit_code == 4, found.output
        told = json.loads(found.output)
        assert not told["handed_over"]
        assert told["refused"] == f"{run}.next"
        assert {path: path.read_bytes() for path in kept} == kept
        assert store.read_record(shop / "artefact.json") == record

        # Mended, it is handed over; nothing of the refused attempt's settings is left.
        found = asked(run, "--data", _day(tmp_path, 3), *common)
        assert found.exit_code == 0, found.output
        assert "learning_rate = 0.01" in (run / "config.toml").read_text()
        assert store.read_record(shop / "artefact.json")["num_items"] == 24
        assert server.wait_for("model ready", count=3)["version"] not in (first, second)
    assert len(statuses) > 20
    assert set(statuses) == {200}
    found = asked(run, "--serve", tmp_path / "day1", "-q")
    assert isinstance(found.exception, InputError)
    assert "holds other files" in str(found.exception)


class asking:
    """Asks a server all the time; the statuses of its answers."""

    def __init__(self, server: LiveServer) -> None:
        self.server, self.statuses, self.ended = server, [], threading.Event()
        self.thread = threading.Thread(target=self._ask)

    def __enter__(self) -> list[int]:
        self.thread.start()
        return self.statuses

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _ask(self) -> None:
        while not self.ended.wait(0.05):
            try:
                self.statuses.append(self.server.ask("/recommend", {"session": ["i03"], "k": 3}).status)
            except OSError:
                self.statuses.append(0)
