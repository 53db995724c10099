"""Runs the command as `python -m glm4v.cli`."""

from glm4v.cli import main

main()
