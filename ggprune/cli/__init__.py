"""The command line: one file per command; each parses, calls the library, says what to show."""

from ggprune.cli.app import main

__all__ = ["main"]
