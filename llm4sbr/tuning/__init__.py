"""Hyper-parameter search: trains models with other settings and compares them on the validation samples."""
