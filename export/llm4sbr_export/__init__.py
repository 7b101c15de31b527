"""Exporters of llm4sbr: ONNX, TensorRT and Triton. Found through the registry, kind `exporters`."""
