"""Data: from raw logs to sessions, samples and batches."""
