"""Fusion rules, one a file."""
