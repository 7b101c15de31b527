"""Commands other than the stages, one module per group."""
