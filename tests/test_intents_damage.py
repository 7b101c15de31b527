"""Every damage to stored intents is found, and said in one line with the command that mends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llm4sbr.errors import StoreError
from llm4sbr.intents import MANIFEST, IntentStore, IntentWriter, verify_all
from llm4sbr.intents.manifest import write_manifest
from llm4sbr.store import file_sha256, write_json, write_tensors


def write(folder: Path, *, rows: int, shard: int, dim: int = 3, f: int = 2) -> IntentStore:
    """Intents of two perspectives, no two equal."""
    generator = torch.Generator().manual_seed(0)
    writer = IntentWriter(folder, ["long", "short"], about={"catalogue": "hash of the items"}, shard=shard)
    located = torch.ones(rows, 2, f)
    writer.add(torch.arange(rows), torch.randn(rows, 2, dim, generator=generator), located, located)
    writer.close()
    return IntentStore.open(folder)


@pytest.mark.parametrize("name", ["keys-00001.safetensors", "intents-00001.safetensors", MANIFEST])
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run/localize/llm" / name
    write(path.parent, rows=20, dim=1, f=0, shard=64)
    before = path.read_bytes()
    for place in range(0, len(before), 7):
        changed = bytearray(before)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(StoreError) as caught:
            IntentStore.open(path.parent).verify()
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(before)
    IntentStore.open(path.parent).verify()


def test_another_catalogue_is_found(tmp_path: Path) -> None:
    opened = write(tmp_path / "run/localize/llm", rows=3, shard=1000)
    with pytest.raises(StoreError, match=r"made for another catalogue than .*prepare; run llm4sbr localize"):
        opened.verify(catalogue="hash of others")


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("intents-*.safetensors"))


def damage_truncate(folder: Path) -> None:
    path = shards(folder)[1]
    path.write_bytes(path.read_bytes()[:-10])


def damage_remove(folder: Path) -> None:
    shards(folder)[1].unlink()


def damage_remove_keys(folder: Path) -> None:
    (folder / "keys-00001.safetensors").unlink()


def damage_swap(folder: Path) -> None:
    one, two = shards(folder)[:2]
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def damage_other_store(folder: Path) -> None:
    write(folder / "other", rows=10, dim=5, shard=64)
    shards(folder / "other")[0].replace(shards(folder)[0])


def damage_remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"shards": []}')


def damage_edited(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"catalogue": "hash of others"}))


def damage_elsewhere(folder: Path) -> None:
    """A whole manifest, with its hash right, that points out of its folder."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"][0]["file"] = "../" + manifest["shards"][0]["file"]
    write_manifest(folder, {key: value for key, value in manifest.items() if key != "sha256"})


def damage_former(folder: Path) -> None:
    """As the first version of the project wrote it."""
    manifest = {"format": 1, "perspectives": ["long"], "catalogue": "", "dim": 3, "f": 0, "shards": []}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "intents-00001.safetensors: 260 bytes instead of 270; run llm4sbr localize"),
        (damage_remove, "intents-00001.safetensors: No such file"),
        (damage_remove_keys, "keys-00001.safetensors: No such file"),
        (damage_swap, "intents-00000.safetensors: changed since it was written"),
        (damage_other_store, "intents-00000.safetensors: "),
        (damage_remove_manifest, "manifest.json: no such file, so there are no finished intents"),
        (damage_manifest, "not a manifest of intents"),
        (damage_edited, "manifest.json: changed since it was written"),
        (damage_elsewhere, "lists '../intents-00000.safetensors', which is not beside it"),
        (damage_former, "intents in format 1, this version reads 2; run llm4sbr localize"),
    ],
)
def test_damage_is_one_line_that_says_what_to_run(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    run = tmp_path / "run"
    write(run / "localize/llm", rows=10, shard=64)
    damage(run / "localize/llm")
    with pytest.raises(StoreError) as caught:
        IntentStore.open(run / "localize/llm").verify()
    assert message in str(caught.value)
    assert str(caught.value).endswith(f"run llm4sbr localize {run} --force")
    assert "\n" not in str(caught.value)


def test_a_foreign_shard_of_the_same_size_is_not_read(tmp_path: Path) -> None:
    opened = write(tmp_path, rows=10, shard=1000)
    path = tmp_path / "intents-00000.safetensors"
    size = path.stat().st_size
    write_tensors(path, {"intents": torch.zeros(20, 3)})
    path.write_bytes(path.read_bytes().ljust(size, b" "))
    with pytest.raises(StoreError, match="intents-00000"):
        opened.gather(torch.tensor([0]))


def localized(folder: Path) -> Path:
    for source in ("item-text", "llm"):
        write(folder / source, rows=3, shard=1000)
    write_tensors(folder / "items.safetensors", {"items": torch.zeros(4, 3)})
    files = {"items.safetensors": file_sha256(folder / "items.safetensors")}
    write_json(folder / "localize.json", {"sources": {"llm": {}, "item-text": {}}, "files": files})
    return folder


def test_all_of_a_run_is_verified(tmp_path: Path) -> None:
    folder = localized(tmp_path / "run/localize")
    assert list(verify_all(folder, catalogue="hash of the items")) == ["llm", "item-text"]
    (folder / "item-text" / MANIFEST).unlink()
    with pytest.raises(StoreError, match=r"item-text/manifest\.json: no such file"):
        verify_all(folder, catalogue="hash of the items")
    folder = localized(tmp_path / "run/localize")
    write_tensors(folder / "items.safetensors", {"items": torch.ones(4, 3)})
    with pytest.raises(
        StoreError, match=r"items\.safetensors: changed .*; run llm4sbr localize .*run --force"
    ):
        verify_all(folder, catalogue="hash of the items")
