"""Planning: who is quantized, with which range, by which kernel, and why. Reads the graph, never changes it."""
