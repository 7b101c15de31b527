from __future__ import annotations

from collections.abc import Sequence
from math import exp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm4sbr.errors import ConfigError
from llm4sbr.localizers import Nearest, top
from llm4sbr.protocols import Catalogue

# Text space with two axes, so that cosines can be read off.
VECTORS = {
    "east": [1.0, 0.0],
    "far east": [10.0, 0.0],
    "north": [0.0, 2.0],
    "between": [3.0, 4.0],
    "west": [-1.0, 0.0],
    "nowhere": [0.0, 0.0],
}


class Plane:
    fingerprint = "plane"
    dim = 2

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.asked += texts
        return torch.tensor([VECTORS.get(text, [1.0, 1.0]) for text in texts]).reshape(-1, 2)


def catalogue(*titles: str) -> Catalogue:
    return Catalogue([str(i) for i in range(len(titles))], list(titles))


def test_softmax_by_hand() -> None:
    # cosines of "east" with north, between, west: 0, 3/5, -1; the two best are 3/5 and 0
    found = Nearest(f=2).localize(["east"], catalogue("north", "between", "west"), Plane())
    first, second = exp(0.6) / (exp(0.6) + 1), 1 / (exp(0.6) + 1)
    assert found.items.tolist() == [[2, 1]]
    assert found.weights[0].tolist() == pytest.approx([first, second], rel=1e-6)
    assert found.embeddings[0].tolist() == pytest.approx([first * 3, first * 4 + second * 2], rel=1e-6)


def test_cosine_weights_by_hand() -> None:
    # v2: 1 * far east + 3/5 * between, with nothing divided; the shares reported are 1 / 1.6 and 0.6 / 1.6
    found = Nearest(f=2, weights="cosine").localize(
        ["east"], catalogue("between", "far east", "north"), Plane()
    )
    assert found.items.tolist() == [[2, 1]]
    assert found.embeddings[0].tolist() == pytest.approx([10 + 0.6 * 3, 0.6 * 4], rel=1e-6)
    assert found.weights[0].tolist() == pytest.approx([1 / 1.6, 0.6 / 1.6], rel=1e-6)


def test_cosine_weights_leave_out_what_points_away() -> None:
    found = Nearest(f=2, weights="cosine").localize(["east", "west"], catalogue("west", "west"), Plane())
    assert found.items.tolist() == [[0, 0], [1, 2]]
    assert found.weights.tolist() == [[0, 0], [0.5, 0.5]]
    assert found.embeddings.tolist() == [[0, 0], [-2, 0]]


def test_f_0_keeps_the_answers_own_vector() -> None:
    found = Nearest(f=0).localize(["between", "", "east"], catalogue("north"), Plane())
    assert found.embeddings.tolist() == [[3, 4], [0, 0], [1, 0]]
    assert found.items.shape == found.weights.shape == (3, 0)


def test_length_of_a_vector_does_not_decide() -> None:
    found = Nearest(f=1).localize(["between"], catalogue("far east", "north"), Plane())
    assert found.items.tolist() == [[2]]  # cosines 0.6 and 0.8


def test_equal_items_come_in_catalogue_order() -> None:
    found = Nearest(f=3).localize(["east"], catalogue("north", "far east", "east", "far east"), Plane())
    assert found.items.tolist() == [[2, 3, 4]]


def test_what_has_no_direction_is_tied_to_nothing() -> None:
    shop = catalogue("nowhere", "east", "")
    found = Nearest(f=3).localize(["nowhere", "east"], shop, Plane())
    assert found.items.tolist() == [[0, 0, 0], [2, 0, 0]]
    assert found.weights.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert found.embeddings.tolist() == [[0, 0], [1, 0]]


def test_equal_answers_are_encoded_once() -> None:
    encoder = Plane()
    found = Nearest(f=1).localize(["east", "north", "east", "east"], catalogue("west", "between"), encoder)
    assert encoder.asked == ["east", "north", "west", "between"]
    assert found.items.tolist() == [[2]] * 4


def test_more_items_than_there_are() -> None:
    with pytest.raises(ConfigError, match=r"^localize\.f = 3: the catalogue has only 2 items; set"):
        Nearest(f=3).localize(["east"], catalogue("east", "north"), Plane())


@pytest.mark.parametrize("options", [{"f": -1}, {"weights": "linear"}])
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"^localize\."):
        Nearest(**options)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(0, 9),
    n=st.integers(1, 40),
    k=st.integers(1, 6),
    cells=st.integers(1, 60),
    seed=st.integers(0, 10**6),
)
def test_blocks_give_what_the_whole_matrix_gives(m: int, n: int, k: int, cells: int, seed: int) -> None:
    k = min(k, n)
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(m, 5, generator=generator)
    vectors = torch.randn(n, 5, generator=generator)
    similarity, index = top(queries, vectors, k, cells=cells)
    whole = torch.nn.functional.cosine_similarity(queries.unsqueeze(1), vectors.unsqueeze(0), dim=2)
    torch.testing.assert_close(similarity, whole.topk(k, dim=1).values, atol=2e-5, rtol=0)
    torch.testing.assert_close(whole.gather(1, index), similarity, atol=1e-6, rtol=0)
    assert all(len(set(row)) == k for row in index.tolist())
