"""The fusers `gated` and `concat`: combine behavioural and semantic vectors into one session vector.

Both map (B, P, D) and (B, P, D) to (B, D); a semantic row of zeros means that no intent is known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm4sbr.fast import fusion


class Gated(nn.Module):
    """Intents as gates (second version of the LLM4SBR paper and its released code).

    Each perspective's behavioural vector H is scaled by a = q . sigmoid(H + h), where h is its semantic
    vector, and a linear map combines the scaled vectors: W [H_1 a_1; ...; H_P a_P]. The gate is one number
    per session and perspective, not limited to 0..1. Without an intent it depends on H only.

    Args:
        dim: D.
        perspectives: P.
    """

    def __init__(self, dim: int, perspectives: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(perspectives, dim))
        self.out = nn.Linear(perspectives * dim, dim, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D)."""
        if fusion.applies(self, behavioural):
            return fusion.gated(behavioural, semantic, self.gate, self.out)
        gate = (torch.sigmoid(behavioural + semantic) * self.gate).sum(2, keepdim=True)  # (B, P, 1)
        mapped: Tensor = self.out((behavioural * gate).flatten(1))
        return mapped


class Concat(nn.Module):
    """One linear map of all vectors, concatenated (LLM4SBR, first version, Eq. 9).

    Args:
        dim: D.
        perspectives: P.
    """

    def __init__(self, dim: int, perspectives: int) -> None:
        super().__init__()
        self.out = nn.Linear(2 * perspectives * dim, dim, bias=False)
        nn.init.uniform_(self.out.weight, -(dim**-0.5), dim**-0.5)

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D)."""
        mapped: Tensor = self.out(torch.cat([behavioural, semantic], 1).flatten(1))
        return mapped
