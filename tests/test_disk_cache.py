"""Vectors of catalogues kept from run to run: found by content, never trusted blindly, safe side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llm4sbr import store
from llm4sbr.encoders import Memo
from llm4sbr.encoders.disk_cache import encode_cached, folder

TITLES = ["Red Lamp", "Oak Chair", "Red Lamp", "Wall\nClock"]


class Lengths:
    """Counts what it encodes; `fingerprint` and `factor` make it another encoder."""

    def __init__(self, fingerprint: str = "lengths", factor: float = 1.0) -> None:
        self.fingerprint, self.factor, self.dim = fingerprint, factor, 2
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.seen += texts
        return self.factor * torch.tensor([[float(len(text)), 1.0] for text in texts])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))


def encode(encoder: Lengths, titles: Sequence[str] = TITLES) -> tuple[Tensor, list[str], list[int]]:
    """The vectors, the notes, and how far progress came."""
    notes: list[str] = []
    done: list[int] = []
    memo = Memo(encoder, advance=done.append)
    return encode_cached(titles, memo, note=notes.append), notes, done


def files() -> list[Path]:
    return sorted(folder().iterdir())


def test_another_run_encodes_nothing() -> None:
    first, second = Lengths(), Lengths()
    made, notes, done = encode(first)
    again, no_notes, found = encode(second)
    assert sorted(first.seen) == ["Clock", "Oak Chair", "Red Lamp", "Wall"]
    assert second.seen == []
    assert torch.equal(made, again)
    assert made.tolist()[:3] == [[8, 1], [9, 1], [8, 1]]
    torch.testing.assert_close(made[3], Memo(Lengths()).encode(["Wall\nClock"])[0])
    assert (notes, no_notes) == ([], [])
    assert sum(done) == sum(found) == 4
    assert [path.suffix for path in files()] == [".safetensors"]


def test_what_is_kept_is_known_to_the_rest_of_the_run() -> None:
    encode(Lengths())
    encoder = Lengths()
    memo = Memo(encoder)
    encode_cached(TITLES, memo, note=pytest.fail)
    memo.encode(["Oak Chair", "an answer"])
    assert encoder.seen == ["an answer"]


@pytest.mark.parametrize(
    ("encoder", "titles"),
    [
        (Lengths("lengths of another version", 2.0), TITLES),
        (Lengths(), [*TITLES[:3], "Wall Clock"]),
        (Lengths(), TITLES[:3]),
    ],
    ids=["encoder", "title", "fewer titles"],
)
def test_another_encoder_or_catalogue_is_another_file(encoder: Lengths, titles: list[str]) -> None:
    encode(Lengths())
    encoder.seen.clear()
    found, _, _ = encode(encoder, titles)
    assert encoder.seen
    assert torch.equal(found, Memo(encoder).encode(titles))
    assert len(files()) == 2


def test_the_order_of_the_items_is_no_other_catalogue() -> None:
    made, _, _ = encode(Lengths())
    encoder = Lengths()
    found, _, _ = encode(encoder, TITLES[::-1])
    assert encoder.seen == []
    assert torch.equal(found, made.flip(0))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # the last 32 bytes are the sha256, the 32 before them the vectors
    path.write_bytes(content)


def flipped_sum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def text(path: Path) -> None:
    path.write_text("nothing of the kind", encoding="utf-8")


def foreign(path: Path) -> None:
    store.write_tensors(path, {"weights": torch.zeros(2)})


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [flipped, flipped_sum, truncated, text, foreign, empty], ids=lambda one: one.__name__
)
def test_a_damaged_file_is_made_anew_and_said(damage: Callable[[Path], None]) -> None:
    made, _, _ = encode(Lengths())
    (path,) = files()
    whole = path.read_bytes()
    damage(path)
    encoder = Lengths()
    found, (note,), _ = encode(encoder)
    assert torch.equal(found, made)
    assert len(encoder.seen) == 4
    assert str(path) in note
    assert note.endswith("the catalogue is encoded again")
    assert "\n" not in note
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    found, (note,), _ = encode(Lengths())
    assert len(found) == 4
    assert "the next run encodes the catalogue again" in note


SIDE_BY_SIDE = """
import sys, torch
from llm4sbr.encoders import Memo
from llm4sbr.encoders.disk_cache import encode_cached

class Encoder:
    fingerprint, dim = "one for all", 64
    def encode(self, texts):
        return torch.tensor([[float(hash_) for hash_ in range(len(text), len(text) + 64)] for text in texts])

titles = [f"item {'x' * number}" for number in range(500)]
for _ in range(30):
    notes = []
    found = encode_cached(titles, Memo(Encoder()), note=notes.append)
    assert not notes, notes
    assert torch.equal(found, Memo(Encoder()).encode(titles))
    if sys.argv[1] == "clear":
        from llm4sbr.encoders.disk_cache import folder
        for path in folder().glob("*.safetensors"):
            path.unlink(missing_ok=True)
"""


@pytest.mark.slow
def test_several_processes_share_it_and_may_clear_it() -> None:
    work = [
        subprocess.Popen([sys.executable, "-c", SIDE_BY_SIDE, task], stderr=subprocess.PIPE)
        for task in ("read", "clear", "read")
    ]
    for process in work:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    assert not [path for path in folder().iterdir() if path.name.endswith(".tmp")]
