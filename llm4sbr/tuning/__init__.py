"""Hyper-parameter search: trains models with different settings and compares them on validation samples."""
