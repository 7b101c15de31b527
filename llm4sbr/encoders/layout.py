"""Reads how a sentence-transformers model makes its vectors, without that package.

`modules.json` lists the parts in order, each with its folder: the transformer; how token states are pooled
into one vector (`1_Pooling/config.json`); linear layers on it (`2_Dense`); scaling to length 1
(`2_Normalize`). `sentence_bert_config.json` has the maximum number of tokens and whether texts are lower
case, `config_sentence_transformers.json` a prompt that precedes every text, and the number of dimensions that
vectors are cut to.

A field that is not understood is refused, unless it says nothing: a model that is not read in full gives
other vectors than its author's, without a sign of it. Fields are those up to sentence-transformers 6.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr.encoders.pooling import POOLINGS
from llm4sbr.errors import ModelUnavailableError

MODULES = "modules.json"
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Field of a pooling configuration -> pooling, in the order in which several are concatenated."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
"""Activations of `torch.nn` that may follow a linear layer."""

VECTOR, TOKENS = "sentence_embedding", "token_embeddings"
"""Names under which sentence-transformers keeps the pooled vector and the token states."""

TEXTS = "sentence_bert_config.json"
WHOLE = "config_sentence_transformers.json"

UNDERSTOOD: dict[str, dict[str, tuple[Any, ...] | None]] = {
    MODULES: {"idx": None, "name": None, "path": None, "type": None},
    TEXTS: {
        "max_seq_length": None,
        "do_lower_case": None,
        "transformer_task": ("feature-extraction", "fill-mask"),
        "modality_config": None,
        "module_output_name": (TOKENS,),
        "unpad_inputs": None,
    },
    WHOLE: {
        "__version__": None,
        "model_type": ("SentenceTransformer",),
        "prompts": None,
        "default_prompt_name": None,
        "similarity_fn_name": None,
        "truncate_dim": None,
    },
    "Pooling": {
        "embedding_dimension": None,
        "word_embedding_dimension": None,
        "pooling_mode": None,
        "include_prompt": None,
        **dict.fromkeys(FLAGS),
    },
    "Dense": {
        "in_features": None,
        "out_features": None,
        "bias": None,
        "activation_function": None,
        "module_input_name": (VECTOR,),
        "module_output_name": (VECTOR,),
        "use_residual": None,
    },
    "Normalize": {"module_input_name": (VECTOR,), "module_output_name": (VECTOR,)},
}
"""File or part -> its fields -> the values that can be obeyed, or None where the code looks at them."""

NEUTRAL: tuple[Any, ...] = (None, False, "", [], {})
"""Values with which a field says nothing."""

FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
"""How token states are computed from texts."""

Read = Callable[[str], Path | None]
"""File name inside the model -> local path; None if the model has no such file."""


class Dense(NamedTuple):
    """A linear layer on the pooled vector."""

    weights: Path
    """File with `linear.weight` (out, in) and optionally `linear.bias` (out,)."""
    width: int
    """Output dimension."""
    activation: str
    """Of `ACTIVATIONS`."""
    residual: bool = False
    """Whether its input is added to its output, through `residual.weight` (out, in) if their sizes differ."""


class Layout(NamedTuple):
    """How a model turns token states into vectors."""

    folder: str = ""
    """Folder of the transformer inside the model."""
    pooling: tuple[str, ...] = ("mean",)
    """Names of poolings; their vectors are concatenated."""
    layers: tuple[Dense | int | None, ...] = (None,)
    """Applied to the vector in order; None scales it to length 1, a number cuts it to so many dimensions."""
    max_length: int | None = None
    """Maximum number of tokens per text."""
    lower: bool = False
    """Whether texts are lowercased."""
    prompt: str = ""
    """Precedes every text."""


def read_layout(model: str, read: Read) -> Layout | None:
    """The layout of a model; None if the model has no `modules.json`.

    Args:
        model: its name, for error messages.
        read: finds its files.

    Raises:
        ModelUnavailableError: a file is missing or invalid, or the model has a part that is not supported
            here.
    """
    modules = read(MODULES)
    if modules is None:
        return None
    try:
        return _layout(model, json.loads(modules.read_text(encoding="utf-8")), read)
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        reason = (
            f"{MODULES} or a file that it names is not what it should be, {type(error).__name__}: {error}"
        )
        raise _unsupported(model, reason) from None


def _layout(model: str, modules: list[dict[str, Any]], read: Read) -> Layout:
    found = Layout(pooling=(), layers=())
    for module in modules:
        _understood(module, MODULES, MODULES)
        if not module["type"].startswith("sentence_transformers."):
            raise _unsupported(model, f"its part {module['path']} is a {module['type']}, code of its own")
        kind, folder = module["type"].rpartition(".")[2], module["path"]
        if kind == "Transformer" and not found.pooling:
            found = found._replace(folder=folder, **_texts(read, folder))
        elif kind == "Pooling" and not found.pooling:
            found = found._replace(pooling=_pooling(_json(read, folder, "config.json", kind), found.prompt))
        elif kind == "Dense" and found.pooling:
            found = found._replace(layers=(*found.layers, _dense(model, folder, read)))
        elif kind == "Normalize" and found.pooling:
            _json(read, folder, "config.json", kind, needed=False)
            found = found._replace(layers=(*found.layers, None))
        else:
            raise _unsupported(model, f"its part {folder or kind} is a {module['type']}")
    if not found.pooling:
        raise _unsupported(model, "it has no pooling")
    if read(f"{found.folder}/adapter_config.json".lstrip("/")) is not None:
        raise _unsupported(model, "it has an adapter (adapter_config.json); merge it into the weights")
    cut = _json(read, "", WHOLE, WHOLE, needed=False).get("truncate_dim")
    if cut is not None and (type(cut) is not int or cut < 1):
        raise ValueError(f"{WHOLE}: truncate_dim is {cut!r}")
    return found._replace(layers=(*found.layers, cut)) if cut else found


def _texts(read: Read, folder: str) -> dict[str, Any]:
    """How texts are prepared before tokenization."""
    own = _json(read, folder, TEXTS, TEXTS, needed=False)
    whole = _json(read, "", WHOLE, WHOLE, needed=False)
    ways = own.get("modality_config")
    if ways is not None and ways.get("text") != FORWARD:
        raise ValueError(f"{TEXTS}: modality_config.text is {ways.get('text')!r}, expected {FORWARD}")
    name = whole.get("default_prompt_name")
    prompt = (whole.get("prompts") or {})[name] if name else ""
    return {
        "max_length": own.get("max_seq_length"),
        "lower": own.get("do_lower_case", False),
        "prompt": prompt,
    }


def _pooling(config: Mapping[str, Any], prompt: str) -> tuple[str, ...]:
    chosen = (
        config.get("pooling_mode") or [way for flag, way in FLAGS.items() if config.get(flag)] or ["mean"]
    )
    ways = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    if unknown := [way for way in ways if way not in POOLINGS]:
        raise ValueError(f"no pooling {unknown[0]!r}")
    if prompt and not config.get("include_prompt", True):
        raise ValueError("its default prompt is not to be pooled, which is not supported")
    return ways


def _dense(model: str, folder: str, read: Read) -> Dense:
    config = _json(read, folder, "config.json", "Dense")
    weights = read(f"{folder}/model.safetensors")
    if weights is None:
        raise _unsupported(model, f"{folder} has no model.safetensors (pickled weights are not read)")
    place, _, activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")
    if activation not in ACTIVATIONS or not place.startswith("torch.nn"):
        raise ValueError(f"no activation {config['activation_function']!r}")
    return Dense(weights, int(config["out_features"]), activation, bool(config.get("use_residual", False)))


def _understood(content: Mapping[str, Any], part: str, where: str) -> None:
    """Raise `ValueError` if a field is unknown, or has a value that cannot be obeyed."""
    known = UNDERSTOOD[part]
    for field, value in content.items():
        allowed = known.get(field, ())
        if allowed is not None and value not in (*allowed, *NEUTRAL):
            what = f"is {value!r}" if field in known else "is not understood"
            raise ValueError(f"{where}: the field {field!r} {what}")


def _json(read: Read, folder: str, name: str, part: str, *, needed: bool = True) -> dict[str, Any]:
    path = f"{folder}/{name}".lstrip("/")
    found = read(path)
    if found is None:
        if needed:
            raise ValueError(f"{path} is missing")
        return {}
    content: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    _understood(content, part, path)
    return content


def _unsupported(model: str, reason: str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"the text encoder {model!r} cannot be used ({' '.join(reason.split())}); give one of the parts "
        "Transformer, Pooling, Dense and Normalize, or use --encoder embedded"
    )
