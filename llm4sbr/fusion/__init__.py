"""The models of LLM4SBR's second stage: a backbone, a fuser, and scores for every item."""
