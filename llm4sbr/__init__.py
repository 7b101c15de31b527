"""Session-based recommendation that a large language model makes better and never slows down."""
