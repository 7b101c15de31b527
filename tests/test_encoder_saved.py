"""Models of many layouts, saved by sentence-transformers: its vectors, or the field that is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm4sbr.encoders import TransformersEncoder
from llm4sbr.encoders.pooling import POOLINGS
from llm4sbr.errors import ModelUnavailableError
from llm4sbr.testing.encoders import tiny_bert

TEXTS = ["Red Lamp", "the GREEN chair of a table with a longer text, red red red red red red red", "lamp"]


@pytest.fixture(scope="module")
def st() -> Any:
    """The package; it is in the extra `dev`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sentence_transformers.models")
        return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


def dense(st: Any, width: int, into: int, **options: Any) -> Any:
    torch.manual_seed(width)
    return st.models.Dense(width, into, **options)


GELU = torch.nn.GELU()
LAYOUTS: dict[str, Callable[[Any], list[Any]]] = {
    **{way: (lambda st, way=way: [st.models.Pooling(16, way)]) for way in POOLINGS},
    "two": lambda st: [st.models.Pooling(16, ("mean", "cls")), st.models.Normalize()],
    "unit": lambda st: [st.models.Pooling(16, "mean"), st.models.Normalize()],
    "map": lambda st: [st.models.Pooling(16, "mean"), dense(st, 16, 5)],
    "map, unit": lambda st: [st.models.Pooling(16, "cls"), dense(st, 16, 24), st.models.Normalize()],
    "unit, map": lambda st: [st.models.Pooling(16, "cls"), st.models.Normalize(), dense(st, 16, 5)],
    "no bias": lambda st: [st.models.Pooling(16, "mean"), dense(st, 16, 5, bias=False)],
    "identity": lambda st: [st.models.Pooling(16, "mean"), dense(st, 16, 5, activation_function=None)],
    "gelu": lambda st: [st.models.Pooling(16, "mean"), dense(st, 16, 5, activation_function=GELU)],
    "two maps": lambda st: [st.models.Pooling(16, "mean"), dense(st, 16, 8), dense(st, 8, 4)],
    "residual": lambda st: [st.models.Pooling(16, "mean"), dense(st, 16, 16, use_residual=True)],
    "residual, narrow": lambda st: [st.models.Pooling(16, "mean"), dense(st, 16, 5, use_residual=True)],
    "residual, unit": lambda st: [
        st.models.Pooling(16, "mean"), dense(st, 16, 24, use_residual=True), st.models.Normalize()
    ],
}  # fmt: skip
WHOLE: dict[str, dict[str, Any]] = {
    "": {},
    "cut": {"truncate_dim": 3},
    "not cut": {"truncate_dim": 500},
    "prompt": {"prompts": {"query": "find: "}, "default_prompt_name": "query"},
    "unused prompts": {"prompts": {"query": "find: "}},
}
FIRST: dict[str, dict[str, Any]] = {
    "": {},
    "short": {"max_seq_length": 6},
    "lower": {"do_lower_case": True},
}


def compare(st: Any, folder: Path, parts: list[Any], **whole: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        st.SentenceTransformer(modules=parts, device="cpu", **whole).save(str(folder))
        expected = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    encoder = TransformersEncoder(folder, max_length=500, device="cpu")
    found = encoder.encode(TEXTS)
    assert encoder.dim == expected.shape[1] == found.shape[1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_vectors_of_the_package(
    st: Any, bert: Path, tmp_path: Path, layout: str
) -> None:
    compare(st, tmp_path / "m", [st.models.Transformer(str(bert)), *LAYOUTS[layout](st)])


@pytest.mark.parametrize("whole", WHOLE)
@pytest.mark.parametrize("first", FIRST)
def test_and_whatever_is_done_before_and_after(
    st: Any, bert: Path, tmp_path: Path, first: str, whole: str
) -> None:
    parts = [st.models.Transformer(str(bert), **FIRST[first]), *LAYOUTS["map, unit"](st)]
    compare(st, tmp_path / "m", parts, **WHOLE[whole])


UNKNOWN = [
    ("modules.json", "kwargs", ["task"]),
    ("sentence_bert_config.json", "transformer_task", "text-generation"),
    ("sentence_bert_config.json", "modality_config", {"text": {"method": "get_text_features"}}),
    ("sentence_bert_config.json", "module_output_name", "sentence_embedding"),
    ("sentence_bert_config.json", "processing_kwargs", {"text": {"padding": "longest"}}),
    ("sentence_bert_config.json", "query_expansion", {"x": 1}),
    ("sentence_bert_config.json", "of_a_later_version", 1),
    ("config_sentence_transformers.json", "model_type", "SparseEncoder"),
    ("config_sentence_transformers.json", "truncate_dim", "three"),
    ("config_sentence_transformers.json", "default_prompt_name", "gone"),
    ("config_sentence_transformers.json", "of_a_later_version", True),
    ("1_Pooling/config.json", "pooling_mode", "median"),
    ("1_Pooling/config.json", "of_a_later_version", "x"),
    ("2_Dense/config.json", "module_input_name", "token_embeddings"),
    ("2_Dense/config.json", "activation_function", "mine.Tanh"),
    ("2_Dense/config.json", "of_a_later_version", 0.5),
    ("3_Normalize/config.json", "module_output_name", "other"),
    ("3_Normalize/config.json", "p", 1),
]

SAVED: dict[str, Any] = {
    "modules.json": [
        {
            "idx": 0,
            "name": "0",
            "path": "",
            "type": "sentence_transformers.base.modules.transformer.Transformer",
        },
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "sentence_bert_config.json": {"module_output_name": "token_embeddings", "query_length": None},
    "config_sentence_transformers.json": {"model_type": "SentenceTransformer", "prompts": {}},
    "1_Pooling/config.json": {"embedding_dimension": 16, "pooling_mode": "mean", "include_prompt": True},
    "2_Dense/config.json": {"in_features": 16, "out_features": 16, "bias": False},
    "3_Normalize/config.json": {"module_input_name": "sentence_embedding"},
}
"""What is saved, without the package: so this runs where it is not installed."""


def saved(folder: Path, bert: Path, **more: Any) -> Path:
    import shutil

    from safetensors.torch import save_file

    shutil.copytree(bert, folder)
    for name, content in SAVED.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    save_file({"linear.weight": torch.eye(16)}, folder / "2_Dense" / "model.safetensors")
    return folder


def test_what_is_saved_is_read(bert: Path, tmp_path: Path) -> None:
    assert TransformersEncoder(saved(tmp_path / "m", bert)).encode(TEXTS).shape == (3, 16)


@pytest.mark.parametrize(("name", "field", "value"), UNKNOWN)
def test_a_field_that_is_not_understood_is_refused_by_name(
    bert: Path, tmp_path: Path, name: str, field: str, value: Any
) -> None:
    folder = saved(tmp_path / "m", bert)
    content = json.loads((folder / name).read_text())
    (content[0] if isinstance(content, list) else content)[field] = value
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ModelUnavailableError) as caught:
        TransformersEncoder(folder).encode(TEXTS)
    named = value if field in ("pooling_mode", "activation_function", "default_prompt_name") else field
    assert str(named) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_and_foreign_parts_are_refused(bert: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", bert)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelUnavailableError, match="adapter_config"):
        TransformersEncoder(folder).encode(TEXTS)
    (folder / "adapter_config.json").unlink()
    modules = [
        *SAVED["modules.json"][:1],
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "mine.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelUnavailableError, match=r"mine\.Pooling, code of its own"):
        TransformersEncoder(folder).encode(TEXTS)


def test_tensors_that_a_layer_does_not_have_are_refused(bert: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = saved(tmp_path / "m", bert)
    save_file({"linear.weight": torch.eye(16), "gate": torch.ones(16)}, folder / "2_Dense/model.safetensors")
    with pytest.raises(ModelUnavailableError, match=r"its tensors are gate, linear.weight"):
        TransformersEncoder(folder).encode(TEXTS)
