"""Hands a run or an export on: as one file that opens anywhere, or through a model hub."""
