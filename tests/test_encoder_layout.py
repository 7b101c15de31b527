"""Models in the layout of sentence-transformers: read without that package, and obeyed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from llm4sbr.encoders import TransformersEncoder
from llm4sbr.encoders.layout import FLAGS
from llm4sbr.encoders.pooling import POOLINGS
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.testing.encoders import tiny_bert

TEXTS = ["red lamp", "the green chair of a table with longer text"]  # the first one gets padded


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def model(folder: Path, bert: Path, *parts: str, transformer: str = "", **pooling: Any) -> Path:
    """A sentence-transformers model: `bert`, a pooling, and further parts such as `Normalize`."""
    shutil.copytree(bert, folder / transformer)
    every = [(transformer, "Transformer"), ("1_Pooling", "Pooling")]
    every += [(f"{place}_{part}", part) for place, part in enumerate(parts, 2)]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{part}"}
        for place, (path, part) in enumerate(every)
    ]
    write(folder / "modules.json", modules)
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **pooling})
    return folder


def states(bert: Path, text: str) -> Tensor:
    """Last hidden states (tokens, 16) of one text without padding, by the library alone."""
    from transformers import AutoModel, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(bert)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(bert).eval()(**batch).last_hidden_state[0]  # type: ignore[no-any-return]


def by_hand(way: str, tokens: Tensor) -> Tensor:
    """One vector of (n, 16) token states, token by token."""
    n, rows = len(tokens), list(tokens)
    if way == "max":
        return torch.stack([max(column) for column in tokens.T])
    weights = {
        "cls": [1.0] + [0.0] * (n - 1),
        "lasttoken": [0.0] * (n - 1) + [1.0],
        "mean": [1 / n] * n,
        "mean_sqrt_len_tokens": [1 / n**0.5] * n,
        "weightedmean": [place / (n * (n + 1) / 2) for place in range(1, n + 1)],
    }[way]
    found: Tensor = sum(weight * row for weight, row in zip(weights, rows, strict=True))  # type: ignore[assignment]
    return found


@pytest.mark.parametrize("way", POOLINGS)
def test_each_way_of_pooling_by_hand(bert: Path, tmp_path: Path, way: str) -> None:
    flag = next(name for name, meant in FLAGS.items() if meant == way)
    older = model(tmp_path / "older", bert, pooling_mode_mean_tokens=False, **{})
    write(older / "1_Pooling" / "config.json", dict.fromkeys(FLAGS, False) | {flag: True})
    newer = model(tmp_path / "newer", bert, pooling_mode=way)
    expected = torch.stack([by_hand(way, states(bert, text)) for text in TEXTS])
    for folder in (older, newer):
        encoder = TransformersEncoder(folder)
        assert encoder.pooling == way
        torch.testing.assert_close(encoder.encode(TEXTS), expected, atol=1e-5, rtol=0)
    chosen = TransformersEncoder(bert, pooling=way, normalize=False)  # type: ignore[arg-type]
    torch.testing.assert_close(chosen.encode(TEXTS), expected, atol=1e-5, rtol=0)


def test_several_ways_are_joined(bert: Path, tmp_path: Path) -> None:
    flags = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}
    encoder = TransformersEncoder(model(tmp_path / "m", bert, **flags))
    tokens = states(bert, TEXTS[0])
    assert (encoder.pooling, encoder.dim) == ("cls+mean", 32)
    torch.testing.assert_close(
        encoder.encode(TEXTS[:1])[0], torch.cat([tokens[0], tokens.mean(0)]), atol=1e-5, rtol=0
    )


def test_length_1_where_the_model_says_so_or_somebody_does(bert: Path, tmp_path: Path) -> None:
    raw = model(tmp_path / "raw", bert, pooling_mode="mean")
    unit = model(tmp_path / "unit", bert, "Normalize", pooling_mode="mean")
    direction = states(bert, TEXTS[0]).mean(0)
    for folder, normalize, length in [
        (raw, None, float(direction.norm())),
        (unit, None, 1.0),
        (raw, True, 1.0),
        (unit, False, float(direction.norm())),
    ]:
        encoder = TransformersEncoder(folder, normalize=normalize)
        (vector,) = encoder.encode(TEXTS[:1])
        assert float(vector.norm()) == pytest.approx(length, abs=1e-5)
        assert ("unit length" in encoder.fingerprint) == (length == 1)
    assert TransformersEncoder(unit, pooling="cls").pooling == "cls"


def dense(folder: Path, *, activation: str = "torch.nn.modules.activation.Tanh") -> tuple[Tensor, Tensor]:
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    bias = torch.arange(5.0)
    config = {"in_features": 16, "out_features": 5, "bias": True, "activation_function": activation}
    write(folder / "config.json", config)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "model.safetensors")
    return weight, bias


def test_linear_maps(bert: Path, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", bert, "Dense", "Normalize", pooling_mode="mean")
    weight, bias = dense(folder / "2_Dense")
    encoder = TransformersEncoder(folder)
    assert encoder.dim == 5
    mapped = (weight @ states(bert, TEXTS[1]).mean(0) + bias).tanh()
    torch.testing.assert_close(encoder.encode(TEXTS[1:])[0], mapped / mapped.norm(), atol=1e-5, rtol=0)
    before = encoder.fingerprint
    save_file({"linear.weight": weight, "linear.bias": -bias}, folder / "2_Dense" / "model.safetensors")
    assert TransformersEncoder(folder).fingerprint != before
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelUnavailableError, match="pickled weights are not read"):
        TransformersEncoder(folder).encode(TEXTS)


def test_a_transformer_in_a_folder_of_its_own(bert: Path, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", bert, transformer="0_Transformer", pooling_mode="cls")
    encoder = TransformersEncoder(folder)
    torch.testing.assert_close(encoder.encode(TEXTS[:1])[0], states(bert, TEXTS[0])[0], atol=1e-5, rtol=0)


def test_what_is_done_to_texts(bert: Path, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", bert, pooling_mode="mean")
    write(folder / "sentence_bert_config.json", {"max_seq_length": 5, "do_lower_case": True})
    short, long = TransformersEncoder(folder).encode(["red red red", "red red red red red red"])
    assert torch.equal(short, long)  # five tokens, two of them the tokenizer's own
    prompts = {"prompts": {"query": "find: ", "title": "chair "}, "default_prompt_name": "title"}
    write(folder / "config_sentence_transformers.json", prompts)
    (prompted,) = TransformersEncoder(folder).encode(["red"])
    torch.testing.assert_close(prompted, states(bert, "chair red").mean(0), atol=1e-5, rtol=0)
    write(folder / "1_Pooling" / "config.json", {"pooling_mode": "mean", "include_prompt": False})
    with pytest.raises(ModelUnavailableError, match="prompt is not to be pooled"):
        TransformersEncoder(folder).encode(["red"])


def test_a_part_that_cannot_be_obeyed_is_one_line(bert: Path, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", bert, "WordWeights", pooling_mode="mean")
    for spoil, reason in [
        (lambda: None, "its part 2_WordWeights is a sentence_transformers.models.WordWeights"),
        (lambda: write(folder / "modules.json", [{"path": ""}]), "KeyError: 'type'"),
        (lambda: (folder / "modules.json").write_text("[{"), "JSONDecodeError"),
        (lambda: write(folder / "modules.json", []), "it has no pooling"),
    ]:
        spoil()
        with pytest.raises(ModelUnavailableError) as caught:
            TransformersEncoder(folder).encode(TEXTS)
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [{"pooling_mode": "median"}, None], ids=["unknown way", "no file"])
def test_a_pooling_that_says_nothing_usable(bert: Path, tmp_path: Path, config: object) -> None:
    folder = model(tmp_path / "m", bert)
    path = folder / "1_Pooling" / "config.json"
    path.unlink() if config is None else write(path, config)
    with pytest.raises(ModelUnavailableError, match=r"no pooling 'median'|1_Pooling/config.json is missing"):
        TransformersEncoder(folder).encode(TEXTS)


def test_the_hubs_copy_on_this_machine_is_obeyed_too(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise RuntimeError("Name or service not known")

    kept, commit = tmp_path / "hub" / "models--some--model", "0" * 40
    model(kept / "snapshots" / commit, bert, pooling_mode="cls")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    encoder = TransformersEncoder("some/model")
    assert encoder.fingerprint == f"some/model@{commit}, cls pooling, raw length, 64 tokens"
    torch.testing.assert_close(encoder.encode(TEXTS[:1])[0], states(bert, TEXTS[0])[0], atol=1e-5, rtol=0)
