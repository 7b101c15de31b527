"""Session encoders over item ids, one module per model."""
