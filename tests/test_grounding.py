"""The localizers besides `nearest`, and the perspective that offers candidates."""

from __future__ import annotations

import pytest
import torch

from llm4sbr.errors import ConfigError
from llm4sbr.localizers.candidates import Candidates
from llm4sbr.localizers.nearest import Nearest
from llm4sbr.localizers.pool import Pool, _centres
from llm4sbr.localizers.title import Title, bare
from llm4sbr.perspectives import Choose
from llm4sbr.protocols import Catalogue, Sessions
from llm4sbr.testing.localizers import LetterEncoder

TITLES = ["Red Lamp (1990)", "Green Chair (1991)", "Red Lamp, The (1992)", "Blue Table", "Oak Shelf"]
CATALOGUE = Catalogue(list("abcde"), TITLES)
ENCODER = LetterEncoder()
SESSIONS = Sessions(torch.tensor([1, 2, 1, 2, 4, 5]), torch.tensor([0, 2, 4, 6]))


@pytest.mark.parametrize(
    ("answer", "id"),
    [
        ("Blue Table", 4),
        ("BLUE TABLE.", 4),
        ("The Blue Table", 4),
        ("Green Chair", 2),
        ("Gren Chair", 2),
        ("red lamp", 1),  # two items have this name: the first
        ("Red Lamp (1992)", 3),  # but of their years this is one
        ("The Red Lamp (1990)", 1),
        ("Red Lamp (2007)", 1),
    ],
)
def test_an_answer_that_names_an_item_is_that_item(answer, id):
    found = Title(3).localize([answer], CATALOGUE, ENCODER)
    assert found.items.tolist() == [[id, 0, 0]]
    assert found.weights.tolist() == [[1.0, 0.0, 0.0]]
    assert torch.equal(found.embeddings, ENCODER.encode([TITLES[id - 1]]))


def test_any_other_answer_is_localized_as_nearest_does_it():
    answers = ["something blue", "", "Blue Table"]
    found, nearest = (
        Title(3).localize(answers, CATALOGUE, ENCODER),
        Nearest(3).localize(answers, CATALOGUE, ENCODER),
    )
    for part, other in zip(found, nearest, strict=True):
        assert torch.equal(part[:2], other[:2])
    exact_only = Title(3, similarity=1.0).localize(["Gren Chair"], CATALOGUE, ENCODER)
    assert (exact_only.items[0] > 0).all()


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("The Matrix (1999)", "matrix"),
        ("Matrix, The (1999)", "matrix"),
        ("The", "the"),
        ("A-B: c!", "a b c"),
        ("Am\u00e9lie", "amelie"),
        ("Ame\u0301lie", "amelie"),
        ("\uff2d\uff21\uff34\uff32\uff29\uff38", "matrix"),
        ("\u304b\u3099", "\u304c"),  # one letter in two parts, and not the one without its mark
        ("\U0001f3ac The Matrix", "matrix"),
        ("", ""),
    ],
)
def test_what_people_write_differently(title, expected):
    assert bare(title) == expected


def test_centres_by_hand():
    # three directions, the second counted nine times: two centres are the first and the heavy pair's mean
    vectors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.8, 0.6], [0.0, 0.6, 0.8]])
    weights = torch.tensor([1.0, 9.0, 3.0])
    found = _centres(vectors, weights, 2, seed=0)
    heavy = torch.nn.functional.normalize(9 * vectors[1] + 3 * vectors[2], dim=0)
    expected = torch.stack([vectors[0], heavy])
    assert any(torch.allclose(found[order], expected, atol=1e-6) for order in ([0, 1], [1, 0]))


def test_the_pool_knows_training_answers_only_and_mixes_them():
    pool = Pool(2, size=8)
    pool.fit(["Blue Table", "Blue Table", "Oak Shelf", ""], SESSIONS, CATALOGUE, ENCODER)
    assert len(pool.centres) == 2
    found = pool.localize(["Blue Table", "", "Blue Tables"], CATALOGUE, ENCODER)
    assert found.items[0, 0] == 4
    assert not found.embeddings[1].any()
    table, shelf = torch.nn.functional.normalize(ENCODER.encode(["Blue Table", "Oak Shelf"]), dim=1)
    weight = torch.tensor([1.0, float(table @ shelf)]).softmax(0)
    torch.testing.assert_close(found.embeddings[0], weight[0] * table + weight[1] * shelf, atol=1e-4, rtol=0)


def test_the_same_pool_again():
    answers = [
        f"{a} {b}" for a in ("Red", "Blue", "Oak", "Tin") for b in ("Lamp", "Chair", "Shelf", "Vase", "Rug")
    ]
    pools = [Pool(2, size=4, seed=3) for _ in range(2)]
    for pool in pools:
        pool.fit(answers, SESSIONS, CATALOGUE, ENCODER)
    assert torch.equal(pools[0].centres, pools[1].centres)
    assert pools[0].centres.shape == (4, 64)
    torch.testing.assert_close(pools[0].centres.norm(dim=1), torch.ones(4))


def test_an_answer_chooses_among_the_sessions_own_candidates():
    found = Candidates(2)
    found.fit([], SESSIONS, CATALOGUE, ENCODER)
    after_lamp = found.localize(["Oak Shelf"], CATALOGUE, ENCODER, sessions=torch.tensor([[1, 0]]))
    assert after_lamp.items.tolist() == [[2, 0]]  # only the chair follows the lamp, whatever the answer says
    assert after_lamp.weights.tolist() == [[1.0, 0.0]]
    torch.testing.assert_close(after_lamp.embeddings, ENCODER.encode([TITLES[1]]))
    alone = found.localize(["Oak Shelf"], CATALOGUE, ENCODER, sessions=torch.tensor([[3, 0]]))
    assert alone.items[0, 0] == 5  # nothing follows item 3: as nearest
    none = found.localize([""], CATALOGUE, ENCODER, sessions=torch.tensor([[1, 0]]))
    assert not none.embeddings.any()
    with pytest.raises(ConfigError, match="at least f = 5"):
        Candidates(5, size=3)


@pytest.mark.parametrize("wording", ["paper", "natural"])
def test_the_llm_is_shown_what_follows_in_training_and_no_more(wording):
    choose = Choose(wording=wording)
    lamp = CATALOGUE.item(1)
    bare_prompt = choose.prompt([lamp])
    choose.fit(SESSIONS, CATALOGUE)
    assert [item.id for item in choose.candidates([lamp])] == [2]
    assert choose.prompt([lamp]) == bare_prompt + "\nGreen Chair (1991)"
    assert choose.candidates([CATALOGUE.item(3)]) == []


def test_what_the_llm_is_shown_is_what_its_answer_may_be_tied_to():
    # The shorter session is padded; the first item of the catalogue is a candidate like any other.
    sessions = Sessions(torch.tensor([2, 1, 2, 1, 4, 5, 4, 2, 4, 3]), torch.tensor([0, 2, 4, 6, 8, 10]))
    choose, localizer = Choose(), Candidates(1)
    choose.fit(sessions, CATALOGUE)
    localizer.fit([], sessions, CATALOGUE, ENCODER)
    for clicked, expected in (([2, 0], {1, 4}), ([5, 4], {2, 3})):
        offered = {item.id for item in choose.candidates([CATALOGUE.item(id) for id in clicked if id])}
        own = torch.tensor([clicked]).expand(len(TITLES), -1)
        found = localizer.localize(TITLES, CATALOGUE, ENCODER, sessions=own)
        assert set(found.items.flatten().tolist()) == offered == expected


@pytest.mark.parametrize("make", [Nearest, Title, Pool, Candidates], ids=lambda make: make.__name__)
def test_an_item_without_text_is_never_chosen(make):
    class Sure(LetterEncoder):
        """Has a vector for nothing, too, as text encoders have."""

        def encode(self, texts):
            return super().encode([text or "Blue Table" for text in texts])

    shop = Catalogue(list("abcde"), ["Red Lamp", "", "Green Chair", " ", "Blue Table"])
    localizer, encoder = make(2), Sure()
    if hasattr(localizer, "fit"):
        localizer.fit(["Blue Table", "Oak Shelf"], SESSIONS, shop, encoder)
    own = {"sessions": torch.tensor([[1]])} if hasattr(localizer, "needs_sessions") else {}
    found = localizer.localize(["Blue Table"], shop, encoder, **own)
    assert not {2, 4} & set(found.items[0].tolist())


def test_a_title_is_found_where_longer_texts_stand_for_items():
    texts = [f"{title}, {'furniture of the house ' * 3}" for title in TITLES]
    longer = Catalogue(list("abcde"), texts, {"title": TITLES})
    found = Title(2).localize(["Blue Table", "Gren Chair"], longer, ENCODER)
    assert found.items.tolist() == [[4, 0], [2, 0]]
    assert torch.equal(found.embeddings, ENCODER.encode([texts[3], texts[1]]))
