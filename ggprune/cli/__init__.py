"""The command line: one file per command, each parses, calls the library once and renders."""

from ggprune.cli.app import main

__all__ = ["main"]
