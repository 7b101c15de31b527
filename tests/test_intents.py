from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm4sbr.errors import StoreError
from llm4sbr.intents import MANIFEST, IntentStore, IntentWriter
from llm4sbr.store import file_sha256

ABOUT = {"catalogue": "hash of the items", "encoder": "tiny"}


class Content(NamedTuple):
    keys: Tensor
    intents: Tensor
    items: Tensor
    weights: Tensor


def content(rows: int, *, perspectives: int = 2, dim: int = 3, f: int = 2, seed: int = 0) -> Content:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator).unique()
    shape = (len(keys), perspectives)
    return Content(
        keys,
        torch.randn(*shape, dim, generator=generator),
        torch.randint(0, 9, (*shape, f), generator=generator),
        torch.rand(*shape, f, generator=generator),
    )


def write(folder: Path, given: Content, *, shard: int = 10**6, remembered: int = 1000) -> IntentStore:
    names = ["long", "short", "normal"][: given.intents.shape[1]]
    writer = IntentWriter(folder, names, about=ABOUT, shard=shard, remembered=remembered)
    writer.add(*given)
    writer.close({"answers": len(given.keys)})
    return IntentStore.open(folder)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 30),
    shard=st.integers(1, 300),
    f=st.integers(0, 3),
    perspectives=st.integers(1, 3),
    kinds=st.integers(1, 40),
    remembered=st.integers(1, 20),
)
def test_what_is_written_is_read(
    rows: int, shard: int, f: int, perspectives: int, kinds: int, remembered: int
) -> None:
    given = content(rows, f=f, perspectives=perspectives, seed=rows)
    chosen = torch.randint(0, max(1, min(kinds, len(given.keys))), (len(given.keys),))
    given = Content(given.keys, *(part[chosen] for part in given[1:]))  # some are equal
    with tempfile.TemporaryDirectory() as folder:
        opened = write(Path(folder), given, shard=shard, remembered=remembered)
        opened.verify(catalogue="hash of the items")
        assert len(opened) == len(given.keys)
        assert torch.equal(opened.keys, given.keys)
        asked = torch.cat([given.keys.flip(0), torch.tensor([2**63 - 1, 5])])
        found = opened.rows(asked)
        order = list(range(len(given.keys)))[::-1]
        assert found.tolist() == [*order, -1, -1]
        assert (opened.dim, opened.f) == (3, f)
        intents, (items, weights) = opened.gather(found), opened.located(found)
        assert intents.dtype == weights.dtype == torch.float32
        assert items.dtype == torch.int64
        assert torch.equal(intents[:-2], given.intents[order].half().float())
        assert torch.equal(items[:-2], given.items[order])
        assert torch.equal(weights[:-2], given.weights[order].half().float())
        for part in (intents, items, weights):
            assert not part[-2:].any()


def test_equal_intents_are_stored_once(tmp_path: Path) -> None:
    # Ten samples with the same two intents, the second of which differs in its items only.
    keys = torch.arange(10)
    intents = torch.ones(10, 2, 3)
    items = torch.tensor([[1, 2], [1, 3]]).expand(10, 2, 2)
    opened = write(tmp_path, Content(keys, intents, items, torch.full((10, 2, 2), 0.5)))
    assert (len(opened), opened.distinct) == (10, 2)
    assert opened.located(torch.tensor([7]))[0].tolist() == [[[1, 2], [1, 3]]]
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert (manifest["rows"], manifest["distinct"], manifest["dtype"]) == (10, 2, "float16")


def test_what_is_forgotten_is_stored_again_and_reads_the_same(tmp_path: Path) -> None:
    kinds = torch.randn(6, 1, 3)
    given = Content(torch.arange(60), kinds.repeat(10, 1, 1), *[torch.zeros(60, 1, 0)] * 2)
    all_known = write(tmp_path / "all", given, remembered=6)
    one_known = write(tmp_path / "one", given, remembered=1)
    assert (all_known.distinct, one_known.distinct) == (6, 60)
    every = torch.arange(60)
    assert torch.equal(all_known.gather(every), one_known.gather(every))


def test_properties_and_manifest(tmp_path: Path) -> None:
    opened = write(tmp_path, content(10), shard=16 * 4)  # 8 bytes of a key and 4 of each of two places
    assert (opened.perspectives, opened.dim, opened.f) == (["long", "short"], 3, 2)
    assert opened.catalogue_hash == "hash of the items"
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert [shard["rows"] for shard in manifest["keys"]] == [4, 4, 2]
    assert sum(shard["rows"] for shard in manifest["shards"]) == 20
    assert manifest["statistics"] == {"answers": 10}
    assert manifest["encoder"] == "tiny"
    assert opened.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    opened.verify()


def test_the_same_intents_are_the_same_bytes(tmp_path: Path) -> None:
    given = content(20)
    files = [
        {path.name: file_sha256(path) for path in tmp_path.joinpath(name).iterdir()}
        for name in ("one", "other")
        if write(tmp_path / name, given, shard=200)
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 4


def test_several_blocks_make_one_store(tmp_path: Path) -> None:
    given = content(9)
    writer = IntentWriter(tmp_path, ["long", "short"], about=ABOUT)
    for block in (slice(0, 4), slice(4, 4), slice(4, 9)):
        writer.add(*(part[block] for part in given))
    writer.close()
    opened = IntentStore.open(tmp_path)
    assert opened.rows(given.keys).tolist() == list(range(9))
    torch.testing.assert_close(opened.gather(torch.arange(9)), given.intents, atol=1e-3, rtol=1e-3)


def test_unsorted_keys_are_refused(tmp_path: Path) -> None:
    given = content(6)
    writer = IntentWriter(tmp_path, ["long", "short"], about=ABOUT)
    with pytest.raises(StoreError, match="ascending"):
        writer.add(*(part.flip(0) for part in given))
    writer.add(*(part[3:] for part in given))
    with pytest.raises(StoreError, match="ascending"):
        writer.add(*(part[:3] for part in given))


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_what_float16_cannot_hold_is_refused(tmp_path: Path, value: float) -> None:
    given = content(3)
    given.intents[1, 0, 2] = value
    with pytest.raises(StoreError, match="not finite in float16"):
        IntentWriter(tmp_path, ["long", "short"], about=ABOUT).add(*given)


def test_a_row_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(IndexError, match="row 10 of"):
        write(tmp_path, content(10)).gather(torch.tensor([10]))


def test_a_second_attempt_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    first = IntentWriter(tmp_path, ["long", "short"], about=ABOUT, shard=20)
    first.add(*content(10))  # never closed: killed
    with pytest.raises(StoreError, match=MANIFEST):
        IntentStore.open(tmp_path)
    assert len(write(tmp_path, content(3), shard=40)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"intents-{shard:05}.safetensors" for shard in range(3)),
        *(f"keys-{shard:05}.safetensors" for shard in range(2)),
        MANIFEST,
    ]


def test_opening_maps_the_file(tmp_path: Path) -> None:
    # Bytes changed on disk after opening are seen: nothing but the manifest was read.
    given = content(5, f=0)
    opened = write(tmp_path, given)
    assert torch.equal(opened.gather(torch.tensor([0])), given.intents[:1].half().float())
    path = tmp_path / "intents-00000.safetensors"
    with path.open("r+b") as stream:
        place = path.read_bytes().index(given.intents[4].half().numpy().tobytes())
        stream.seek(place)
        stream.write(torch.ones(2, 3, dtype=torch.float16).numpy().tobytes())
    assert opened.gather(torch.tensor([4])).tolist() == [[[1, 1, 1], [1, 1, 1]]]


def test_opening_reads_no_shard(tmp_path: Path) -> None:
    write(tmp_path, content(10), shard=64)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(b"\0" * path.stat().st_size)
    assert len(IntentStore.open(tmp_path)) == 10


WRITES = """
import json, sys
from pathlib import Path
import torch
from llm4sbr.system import memory
from llm4sbr.intents import IntentWriter

writer = IntentWriter(Path(sys.argv[1]), ["long"], about={"catalogue": ""}, shard=2**22, remembered=10_000)
block, before = 4096, 0
for start in range(0, 32 * block, block):
    if start == 8 * block:
        before = memory.anonymous()
    keys = torch.arange(start, start + block)
    none = torch.zeros(block, 1, 0)
    writer.add(keys, torch.randn(block, 1, 256), none, none)
written = sum(path.stat().st_size for path in Path(sys.argv[1]).iterdir())
print(json.dumps({"written": written, "grown": memory.anonymous() - before}), flush=True)
sys.stdin.read()
"""


def test_memory_is_bounded_while_writing_and_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "localize", content(10))
    folder = tmp_path / "localize.tmp"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "100000"}  # what is freed goes back to the system
    with subprocess.Popen([sys.executable, "-c", WRITES, str(folder)], env=exact, **pipes) as child:
        assert child.stdout is not None
        told = json.loads(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
    assert told["written"] > 60e6
    assert told["grown"] < 12e6  # of about 50 MB that were written in between
    with pytest.raises(StoreError, match="no finished intents"):
        IntentStore.open(folder)
    assert len(IntentStore.open(tmp_path / "localize")) == 10
    assert len(write(folder, content(3))) == 3  # the next attempt begins anew
