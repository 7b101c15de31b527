"""What outlives a process beside results: a flipped bit in kept answers or in a checkpoint is found."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import torch

from llm4sbr.asking.cache import LAYOUT, Answer, AnswerCache, answer_key
from llm4sbr.errors import StoreError
from llm4sbr.training.checkpoint import Checkpoint

KEYS = [answer_key("llm", str(number)) for number in range(20)]
KEPT = {key: Answer(f"Red Lamp number {place} é", 0.1 * place, place) for place, key in enumerate(KEYS)}


def flipped(path: Path, bit: int) -> bytes:
    """Flip one bit; returns what was there."""
    before = path.read_bytes()
    content = bytearray(before)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return before


def test_no_flipped_bit_of_the_answer_cache_becomes_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with AnswerCache.open(path) as cache:
        cache.put_many(KEPT, llm="llm")
    lines = []
    for bit in range(0, 8 * path.stat().st_size, 331):
        before = flipped(path, bit)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        try:
            with AnswerCache.open(path) as cache:
                assert cache.get_many(KEYS).items() <= KEPT.items()
                assert {key: answer for key, answer, _, _ in cache.rows()}.items() <= KEPT.items()
        except StoreError as error:
            lines.append(str(error))
        path.write_bytes(before)
    assert len(lines) > 10
    assert not [line for line in lines if "\n" in line]


def test_a_letter_of_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with AnswerCache.open(path) as cache:
        cache.put_many(KEPT, llm="llm")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Red Lamp number 7", b"Bed Lamp number 7"))
    with AnswerCache.open(path) as cache:
        assert cache.get_many(KEYS[:7])[KEYS[3]] == KEPT[KEYS[3]]
        with pytest.raises(StoreError, match="an answer changed since it was stored"):
            cache.get_many(KEYS)


def test_a_cache_of_version_2_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with AnswerCache.open(path) as cache:
        cache.put_many(dict(list(KEPT.items())[:5]), llm="llm")
    with sqlite3.connect(path) as connection:
        connection.execute("ALTER TABLE answers DROP COLUMN sum")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with AnswerCache.open(path) as cache:
        assert cache.get_many(KEYS) == dict(list(KEPT.items())[:5])
        assert cache.put_many(KEPT, llm="llm") == 15
        assert cache.get_many(KEYS) == KEPT
        assert [one.answers for one in cache.stats()] == [20]
    assert len(LAYOUT) == 2


def test_no_flipped_bit_of_a_checkpoint_is_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    optimizers = {"adam": optimizer}
    state = Checkpoint.open(tmp_path, model, optimizers)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state.advance({"epoch": 1, "valid": {"MRR@20": 0.25}}, better=True, value=0.25)
    expected = {name: one.clone() for name, one in model.state_dict().items()}
    assert Checkpoint.open(tmp_path, model, optimizers).best_value == 0.25
    lines = []
    for bit in range(0, 8 * state.path.stat().st_size, 37):
        before = flipped(state.path, bit)
        try:
            opened = Checkpoint.open(tmp_path, model, optimizers)
            assert (opened.epoch, opened.best_value) == (1, 0.25)
            assert all(torch.equal(one, expected[name]) for name, one in opened.best.items())
        except StoreError as error:
            lines.append(str(error))
        state.path.write_bytes(before)
        model.load_state_dict(expected)
    assert len(lines) > 100
    assert not [line for line in lines if "\n" in line]
