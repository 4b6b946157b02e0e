"""`ggprune inspect`: what is in a file."""

from __future__ import annotations

from ggprune.cli.options import AsJson, ModelPath


def inspect_command(source: ModelPath, as_json: AsJson = False) -> None:
    """Show a model: architecture, quantization mix, size, and one line per layer.

    Reads the header only, so it is instant for files of any size; llama.cpp is not loaded.

    Example: ggprune inspect model.gguf
    """
    from ggprune.files.documents import to_text
    from ggprune.model import open_model
    from ggprune.report.model import blocks, describe
    from ggprune.report.terminal import terminal

    model = describe(open_model(source))
    print(to_text(model) if as_json else terminal(blocks(model)), end="")
