"""What golden tests share: the formulas' functions in NumPy, one vector at a time, and a session."""

from __future__ import annotations

import numpy as np
import torch

from llm4sbr.testing.backbones import pad

SESSION = [2, 5, 2, 5, 4, 2, 2]
COMPANY = [1, 2, 3, 4, 5, 6, 1, 3, 5, 6]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    weights = np.exp(x - np.max(x))
    return weights / weights.sum()


def unit(x):
    return x / np.linalg.norm(x)


def layer_norm(w, name, x):
    scaled = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"]
    return scaled + w.get(f"{name}.bias", 0)


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0)


def weights_of(model):
    """Everything learned, as float64; PyTorch starts biases and slopes alike, which would hide a mistake."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


def found(model):
    """long, short, and the plain model's cosine or product with items, of SESSION in company."""
    with torch.no_grad():
        encoded = model(*pad([SESSION, COMPANY]))
        return encoded.long[0].numpy(), encoded.short[0].numpy(), model.item_embeddings().numpy()
