from __future__ import annotations

import json
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


def write(folder: Path, given: Content, *, rows: int = 100) -> IntentStore:
    names = ["long", "short", "normal"][: given.intents.shape[1]]
    writer = IntentWriter(folder, names, about=ABOUT, rows=rows)
    writer.add(*given)
    writer.close({"answers": len(given.keys)})
    return IntentStore.open(folder)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 30), size=st.integers(1, 12), f=st.integers(0, 3), perspectives=st.integers(1, 3))
def test_what_is_written_is_read(rows: int, size: int, f: int, perspectives: int) -> None:
    given = content(rows, f=f, perspectives=perspectives, seed=rows)
    with tempfile.TemporaryDirectory() as folder:
        opened = write(Path(folder), given, rows=size)
        assert len(opened) == len(given.keys)
        asked = torch.cat([given.keys.flip(0), torch.tensor([2**63 - 1, 5])])
        found = opened.rows(asked)
        order = list(range(len(given.keys)))[::-1]
        assert found.tolist() == [*order, -1, -1]
        assert (opened.dim, opened.f) == (3, f)
        intents, (items, weights) = opened.gather(found), opened.located(found)
        assert intents.dtype == weights.dtype == torch.float32
        assert items.dtype == torch.int64
        torch.testing.assert_close(intents[:-2], given.intents[order], atol=1e-3, rtol=1e-3)
        assert torch.equal(items[:-2], given.items[order])
        assert torch.equal(weights[:-2], given.weights[order])
        for part in (intents, items, weights):
            assert not part[-2:].any()


def test_properties_and_manifest(tmp_path: Path) -> None:
    opened = write(tmp_path, content(10), rows=4)
    assert (opened.perspectives, opened.dim, opened.f) == (["long", "short"], 3, 2)
    assert opened.catalogue_hash == "hash of the items"
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 2]
    assert manifest["statistics"] == {"answers": 10}
    assert manifest["encoder"] == "tiny"
    opened.verify()


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


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    opened = write(tmp_path, content(10), rows=4)
    path = tmp_path / "intents-00001.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(StoreError, match=r"intents-00001\.safetensors: changed since it was written"):
        opened.verify()


def test_a_second_attempt_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    first = IntentWriter(tmp_path, ["long", "short"], about=ABOUT, rows=2)
    first.add(*content(10))  # never closed: killed
    with pytest.raises(StoreError, match=MANIFEST):
        IntentStore.open(tmp_path)
    assert len(write(tmp_path, content(3), rows=2)) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "intents-00000.safetensors",
        "intents-00001.safetensors",
        MANIFEST,
    ]


def damage_truncate(folder: Path) -> None:
    path = folder / "intents-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def damage_remove(folder: Path) -> None:
    (folder / "intents-00001.safetensors").unlink()


def damage_swap(folder: Path) -> None:
    one, two = folder / "intents-00000.safetensors", folder / "intents-00001.safetensors"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def damage_other_store(folder: Path) -> None:
    write(folder / "other", content(4, dim=5), rows=4)
    (folder / "other" / "intents-00000.safetensors").replace(folder / "intents-00000.safetensors")


def damage_rows(folder: Path) -> None:
    (folder / "intents-00002.safetensors").replace(folder / "intents-00001.safetensors")


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"format": 1}')


def damage_format(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "intents-00001.safetensors: not a whole safetensors file"),
        (damage_remove, "intents-00001.safetensors: no such file"),
        (damage_swap, "do not belong together"),
        (damage_other_store, "intents-00000.safetensors: not the shard"),
        (damage_rows, "intents-00001.safetensors: not the shard that manifest.json lists"),
        (damage_manifest, "not a manifest of intents"),
        (damage_format, "format 99, this version reads 1"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, damage: object, message: str) -> None:
    write(tmp_path, content(10), rows=4)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(StoreError) as caught:
        IntentStore.open(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_opening_maps_the_file(tmp_path: Path) -> None:
    # Bytes changed on disk after opening are seen: nothing but the keys was read.
    given = content(5, f=0)
    opened = write(tmp_path, given)
    assert torch.equal(opened.gather(torch.tensor([0])), given.intents[:1].half().float())
    path = tmp_path / "intents-00000.safetensors"
    with path.open("r+b") as stream:
        place = path.read_bytes().index(given.intents[4].half().numpy().tobytes())
        stream.seek(place)
        stream.write(torch.ones(2, 3, dtype=torch.float16).numpy().tobytes())
    assert opened.gather(torch.tensor([4])).tolist() == [[[1, 1, 1], [1, 1, 1]]]
