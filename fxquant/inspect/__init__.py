"""Looking inside a model: what happened to each operator, what changed between two stages, and how well it agrees."""
