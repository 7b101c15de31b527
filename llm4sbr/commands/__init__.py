"""The command line beyond the stages: one module per group of commands."""
