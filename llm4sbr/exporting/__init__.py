"""The protocol of exporters, and the verification of exported models against the trained model."""

from llm4sbr.exporting.protocol import Exporter, ExportSpec, Scorer

__all__ = ["ExportSpec", "Exporter", "Scorer"]
