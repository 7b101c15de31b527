"""An HTTP server for an exported model: Open Inference Protocol, plain JSON, a small page, metrics.

It reads the export folder alone and imports neither torch nor transformers.
"""
