"""Serving: recommendations for live sessions."""
