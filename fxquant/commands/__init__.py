"""The commands of the command line, one in each file: ``add(subparsers)`` declares it, ``run(arguments)`` runs it."""
