"""Graph passes, one a file, each file named after what it does."""
