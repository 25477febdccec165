"""Backends: the reference, and kernels."""
