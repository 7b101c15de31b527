"""The paper's experiments: many runs side by side, and what they show together."""
