"""`ggprune inspect`: what is in a file."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from ggprune.cli.options import ModelPath, Showing
from ggprune.cli.output import show
from ggprune.cli.progress import READ, TerminalProgress
from ggprune.model.model import open_model
from ggprune.report.model import blocks, describe


def command(
    source: ModelPath,
    fingerprint: Annotated[bool, Option(
        "--fingerprint", help="Read the whole file, should its fingerprint not be known yet.")
    ] = False,
    *,
    showing: Showing,
) -> None:  # fmt: skip
    """Show a model: architecture, quantization mix, size, and one line per layer.

    Reads the header only, so it is instant for files of any size; llama.cpp is not loaded.

    Example: ggprune inspect model.gguf
    """
    model = open_model(source)
    if fingerprint:
        model.read_fingerprint(TerminalProgress(READ))
    show(describe(model), blocks, showing)
