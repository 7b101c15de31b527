"""What every text encoder must do; subclass `EncoderContract` in a plugin's tests.

class TestMine(EncoderContract):
create = staticmethod(lambda: MyEncoder("small"))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from llm4sbr.protocols import Encoder

TEXTS = [
    "Red Lamp (1990)",
    "",
    "a much longer text with many more words than the others have, so that batches must be padded",
    "Green Chair",
    "Red Lamp (1990)",
    "  line\nbreak and Ünïcödé 日本 ",
]


WORDS = (
    "red",
    "green",
    "blue",
    "white",
    "black",
    "lamp",
    "chair",
    "table",
    "clock",
    "mirror",
    "shelf",
    "rug",
)
"""What `tiny_bert` knows besides letters and digits."""


def tiny_bert(folder: Path, *, seed: int = 0, positions: int = 40) -> Path:
    """Save a random BERT of 16 dimensions with a tokenizer, and return `folder`: `transformers:FOLDER`."""
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789()"
    pieces = [*WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=positions,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={piece: i for i, piece in enumerate(vocabulary)}).save_pretrained(folder)
    return folder


class EncoderContract:
    """Tests of one encoder."""

    create: Callable[[], Encoder]
    """Makes the encoder; its weights must be on this machine."""

    tolerance = 1e-5
    """Largest difference that a text's company in a batch may make."""

    def test_satisfies_the_protocol(self) -> None:
        """It has the members, and says what it is."""
        encoder = self.create()
        assert isinstance(encoder, Encoder)
        assert encoder.fingerprint
        assert encoder.dim > 0

    def test_shape_and_type(self) -> None:
        """float32 (M, E) on the CPU, finite, without gradient; nothing in, nothing out."""
        encoder = self.create()
        vectors = encoder.encode(TEXTS)
        assert vectors.shape == (len(TEXTS), encoder.dim)
        assert vectors.dtype == torch.float32
        assert vectors.device.type == "cpu"
        assert vectors.isfinite().all()
        assert not vectors.requires_grad
        assert encoder.encode([]).shape == (0, encoder.dim)

    def test_order_and_company_do_not_matter(self) -> None:
        """A text has one vector, whatever stands beside it and wherever it stands."""
        encoder = self.create()
        together = encoder.encode(TEXTS)
        alone = torch.cat([encoder.encode([text]) for text in TEXTS])
        backwards = encoder.encode(TEXTS[::-1]).flip(0)
        torch.testing.assert_close(together, alone, atol=self.tolerance, rtol=0)
        torch.testing.assert_close(together, backwards, atol=self.tolerance, rtol=0)

    def test_texts_are_told_apart(self) -> None:
        """Different texts get different vectors, equal texts equal ones."""
        first, _, _, other, again, _ = self.create().encode(TEXTS)
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=1e-4)

    def test_repeatable(self) -> None:
        """A second encoder has the same fingerprint and gives the same vectors."""
        one, two = self.create(), self.create()
        assert one.fingerprint == two.fingerprint
        torch.testing.assert_close(one.encode(TEXTS), two.encode(TEXTS), atol=1e-6, rtol=0)
