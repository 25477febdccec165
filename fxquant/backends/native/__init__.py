"""Kernels on torch's quantized tensors. The only package that may touch a quantized dtype."""
