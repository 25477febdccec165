"""Kernels as small modules: plain tensors in their state, packed for the CPU that runs them."""
