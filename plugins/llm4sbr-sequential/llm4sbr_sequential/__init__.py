"""Further backbones for llm4sbr, one module per model."""
