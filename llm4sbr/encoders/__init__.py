"""Text encoders from transformers or sentence-transformers models, and caches of their vectors."""

from llm4sbr.encoders.memo import Memo, encoding
from llm4sbr.encoders.transformers import TransformersEncoder, bert

__all__ = ["Memo", "TransformersEncoder", "bert", "encoding"]
