"""Further backbones for llm4sbr, a module per model; found through entry points, imported when asked for."""
