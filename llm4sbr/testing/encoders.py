"""The contract of text encoders; subclass `EncoderContract` in a plugin's tests.

class TestMine(EncoderContract):
create = staticmethod(lambda: MyEncoder("small"))
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from llm4sbr.protocols import Encoder
from llm4sbr.testing.contract import Contract

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
"""The vocabulary of `tiny_bert`, besides letters and digits."""


def tiny_bert(folder: Path, *, seed: int = 0, positions: int = 40) -> Path:
    """Save a BERT with random weights (E = 16) and a tokenizer, for the encoder `transformers:FOLDER`."""
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


class EncoderContract(Contract, kind="encoders"):
    """Tests of one encoder."""

    create: Callable[[], Encoder]
    """Creates the encoder; its weights must be on this machine."""

    tolerance = 1e-5
    """Maximum difference of a vector's elements due to the other texts of the batch."""

    def test_satisfies_the_protocol(self) -> None:
        """It has the members of the protocol, and a fingerprint that is not empty."""
        encoder = self.create()
        assert isinstance(encoder, Encoder), "needs fingerprint, dim and encode"
        assert isinstance(encoder.fingerprint, str), "fingerprint must be text"
        assert encoder.fingerprint, "the fingerprint is empty"
        assert encoder.dim > 0

    def test_shape_and_type(self) -> None:
        """Vectors are float32 (M, E) on the CPU, finite and without gradient, also for no texts at all."""
        encoder = self.create()
        vectors = encoder.encode(TEXTS)
        assert vectors.shape == (len(TEXTS), encoder.dim)
        assert vectors.dtype == torch.float32
        assert vectors.device.type == "cpu"
        for text, vector in zip(TEXTS, vectors, strict=True):
            assert vector.isfinite().all(), f"the vector of {text!r} has values that are not finite"
        assert not vectors.requires_grad, "vectors carry a gradient: encode under torch.no_grad()"
        assert encoder.encode([]).shape == (0, encoder.dim)

    def test_order_and_company_do_not_matter(self) -> None:
        """A text's vector depends neither on the other texts of the batch nor on their order."""
        encoder = self.create()
        together = encoder.encode(TEXTS)
        alone = torch.cat([encoder.encode([text]) for text in TEXTS])
        backwards = encoder.encode(TEXTS[::-1]).flip(0)
        for text, vector, one, other in zip(TEXTS, together, alone, backwards, strict=True):
            for how, found in (("alone", one), ("in a batch in reverse order", other)):
                worst = (vector - found).abs().max()
                assert worst <= self.tolerance, f"the vector of {text!r} {how} differs by {worst:.2g}"

    def test_texts_stay_as_they_are(self) -> None:
        """`encode` does not modify the list of texts."""
        texts = list(TEXTS)
        self.create().encode(texts)
        assert texts == TEXTS, "encode changed the list of texts"

    def test_texts_are_told_apart(self) -> None:
        """Different texts get different vectors, equal texts equal ones."""
        first, _, _, other, again, _ = self.create().encode(TEXTS)
        assert torch.equal(first, again), f"{TEXTS[0]!r} has two vectors"
        assert not torch.allclose(first, other, atol=1e-4), f"{TEXTS[0]!r} and {TEXTS[3]!r} have one vector"

    def test_repeatable(self) -> None:
        """Two encoders created in the same way have the same fingerprint and give the same vectors."""
        one, two = self.create(), self.create()
        assert one.fingerprint == two.fingerprint, "created twice, it has two fingerprints"
        worst = (one.encode(TEXTS) - two.encode(TEXTS)).abs().max()
        assert worst <= 1e-6, f"created twice, it gives vectors that differ by {worst:.2g}"
