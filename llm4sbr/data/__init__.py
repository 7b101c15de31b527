"""Raw logs to sessions, samples and batches."""
