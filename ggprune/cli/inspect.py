"""`ggprune inspect`: what is in a file."""

from __future__ import annotations

from ggprune.cli.options import AsJson, ModelPath
from ggprune.cli.output import show
from ggprune.model import open_model
from ggprune.report.model import blocks, describe


def command(source: ModelPath, as_json: AsJson = False) -> None:
    """Show a model: architecture, quantization mix, size, and one line per layer.

    Reads the header only, so it is instant for files of any size; llama.cpp is not loaded.

    Example: ggprune inspect model.gguf
    """
    show(describe(open_model(source)), blocks, as_json=as_json)
