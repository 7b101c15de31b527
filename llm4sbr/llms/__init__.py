"""What answers prompts, what stands in for it as a control, and the cache of answers."""
