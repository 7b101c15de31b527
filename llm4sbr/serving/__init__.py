"""Answers for live sessions."""
