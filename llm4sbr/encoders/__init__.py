"""Text encoders: any transformers or sentence-transformers model, and what saves encoding a text twice."""

from llm4sbr.encoders.memo import Memo, encoding
from llm4sbr.encoders.transformers import TransformersEncoder, bert

__all__ = ["Memo", "TransformersEncoder", "bert", "encoding"]
