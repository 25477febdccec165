"""The commands: one file each, with ``add`` for its arguments and ``run`` for its work."""
