from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from llm4sbr import store
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.order import order
from llm4sbr.config import build, nest
from llm4sbr.data.batches import sample_keys
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.testing.toy import toy_catalogue
from llm4sbr.testing.toy_run import toy_run

SAME = 7
"""Of the toy's 20 items every seventh has the same prompts."""
QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("selection") / "run", sources=())


def _tested_on_last_clicks(prepared: Prepared) -> Prepared:
    ends = prepared.sessions.offsets[1:] - 1
    parts = dict(prepared.samples)
    for name in ("valid", "test"):
        last = torch.isin(parts[name].end, ends)
        parts[name] = Samples(*(field[last] for field in parts[name]))
    return prepared._replace(samples=parts)


def _order(run: Path, out: Path, select: str, **settings: object) -> tuple[list[int], Distinct]:
    out.mkdir(exist_ok=True)
    prepared = _tested_on_last_clicks(load(run / "prepare"))
    samples = Distinct.of(prepared)
    config = build(nest({"infer.select": select, "train.dim": 8, **settings}))
    with PromptKeys(2) as keys:
        for row in range(len(samples.keys)):
            last = samples.prefixes[row][-1]
            keys.append([sha256(b"%d" % name).digest() for name in (last.id % SAME, last.id % SAME + 100)])
        return list(order(run, out, samples, prepared, config, QUIET, keys=keys)), samples


@pytest.mark.parametrize("select", ["coverage", "random", "recent", "uncertain"])
def test_every_sample_once_and_the_same_again(run, tmp_path, select):
    rows, samples = _order(run, tmp_path / "a", select)
    assert sorted(rows) == list(range(len(samples.keys)))
    assert _order(run, tmp_path / "b", select)[0] == rows
    assert _order(run, tmp_path / "c", select, **{"infer.seed": 1})[0] != rows


def test_coverage_begins_with_whole_sessions_and_prompts_that_answer_the_most(run, tmp_path):
    rows, samples = _order(run, tmp_path / "a", "coverage")
    prepared = _tested_on_last_clicks(load(run / "prepare"))
    train = prepared.samples["train"]
    ends = {int(end) - 1 for end in prepared.train.offsets[1:]}
    wanted = {int(key) for key, end in zip(train.key, train.end, strict=True) if int(end) in ends}
    wanted |= {int(key) for name in ("valid", "test") for key in prepared.samples[name].key}
    whole = [int(samples.keys[row]) in wanted for row in rows]
    assert 0 < sum(whole) < len(rows)
    assert whole == sorted(whole, reverse=True)
    same = [samples.prefixes[row][-1].id % SAME for row in rows]
    count = Counter(same)
    for part in (True, False):
        sizes = [count[one] for one, first in zip(same, whole, strict=True) if first is part]
        assert sizes == sorted(sizes, reverse=True)
        assert len(set(sizes)) > 1


def test_wholes_by_hand():
    items = torch.tensor([1, 2, 3, 1, 2, 3, 4, 2, 4])
    sessions = Sessions(items, torch.tensor([0, 3, 7, 9]))

    def samples(*spans: tuple[int, int]) -> Samples:
        start, end = torch.tensor(spans, dtype=torch.int64).reshape(-1, 2).T.contiguous()
        return Samples(start, end, sample_keys(sessions, start, end))

    parts = {
        "train": samples((0, 1), (0, 2), (3, 4), (3, 5), (3, 6)),
        "valid": samples(),
        "test": samples((7, 8)),
    }
    prepared = Prepared(toy_catalogue(4), sessions, sessions, parts, {})
    found = Distinct.of(prepared)
    # [1] is no whole; [1, 2] is the first session's; of the second it is [1, 2, 3]; [2] is tested on
    assert found.wholes(prepared).tolist() == [False, True, True, True]


def test_recent_begins_with_the_latest_session(run, tmp_path):
    rows, samples = _order(run, tmp_path / "a", "recent")
    offsets = load(run / "prepare").sessions.offsets
    owners = torch.searchsorted(offsets, samples.end[rows], right=True)
    assert owners.tolist() == sorted(owners.tolist(), reverse=True)
    assert owners[0] != owners[-1]


def test_uncertain_is_by_entropy_kept_for_a_restart(run, tmp_path):
    rows, _ = _order(run, tmp_path / "a", "uncertain")
    entropy = store.read_tensors(tmp_path / "a" / "uncertainty.safetensors")["entropy"]
    assert bool((entropy[rows].diff() <= 0).all())
    assert 0 < float(entropy.min()) < float(entropy.max()) <= float(torch.tensor(20.0).log()) + 1e-5
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["uncertainty.safetensors"]
    assert _order(run, tmp_path / "a", "uncertain")[0] == rows
