"""What an exporter looks like, and whether what it wrote answers as the trained model does."""

from llm4sbr.exporting.protocol import Exporter, ExportSpec, Scorer

__all__ = ["ExportSpec", "Exporter", "Scorer"]
