"""Calling conventions by family: what each refuses, and how its kernels are made."""
