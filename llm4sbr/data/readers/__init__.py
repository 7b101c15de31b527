"""Readers of raw logs, one module per format, and the code they share."""
