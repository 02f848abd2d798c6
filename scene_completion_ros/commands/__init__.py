"""Subcommands of ``scene-completion``, one module each.

A module's first docstring line is its help; ``add_arguments(parser)`` declares its arguments without importing anything
heavy, ``run(arguments)`` does the work and returns the exit code.
"""
