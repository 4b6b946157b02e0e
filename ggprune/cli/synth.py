"""`ggprune synth`: a model with random weights and a well-known shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ggprune.cli.completion import one_of
from ggprune.cli.help import SHAPE
from ggprune.cli.options import Writing, file_types
from ggprune.cli.output import show
from ggprune.cli.progress import TerminalProgress
from ggprune.errors import UsageError
from ggprune.files.outputs import check_output
from ggprune.pipeline.synth import find_shape, known_shapes, make_blueprint, synthesize
from ggprune.report.written import blocks, list_shapes, shape_blocks, synth_model


def shape_names(incomplete: str) -> list[str]:
    return one_of([shape.name for shape in known_shapes()])(incomplete)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the model is to be like."""

    # fmt: off
    shape_name: Annotated[str | None, Option(
        "--shape", metavar="NAME", autocompletion=shape_names,
        help="llama-3.2-1b, ...; see --list.")] = None
    type_name: Annotated[str, Option(
        "--type", metavar="TYPE", autocompletion=file_types, rich_help_panel=SHAPE,
        help="Q4_K_M, Q8_0, F16, ...")] = "Q4_K_M"
    n_layer: Annotated[int | None, Option(
        "--layers", metavar="N", show_default="the model's", help="Another depth.")] = None
    seed: Annotated[int, Option(
        min=0, max=(1 << 32) - 1, rich_help_panel=SHAPE, help="Of the numbers.")] = 0
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class SynthWriting(Writing):
    """Here there are no bytes to compare with."""

    # fmt: off
    verify: Annotated[bool, Option(
        "--verify/--no-verify", help="Load the result in llama.cpp and decode.")] = True
    # fmt: on


def command(
    out: Annotated[Path | None, Argument(metavar="OUT.gguf", help="The file to write.")] = None,
    *,
    asked: Asked,
    show_shapes: Annotated[bool, Option("--list", help="Print the known shapes.")] = False,
    writing: SynthWriting,
) -> None:
    """Write a model with random weights and the exact shapes of a well-known one.

    It has that model's size and speed and nothing of its abilities: for measuring speed without a
    download. Layers weigh differently, the first and the last ones most; any text can be tokenized.

    Example: ggprune synth --shape llama-3.2-1b --type Q4_K_M random.gguf
    """
    force, showing, written = writing.force, writing.showing, not writing.dry_run
    if show_shapes:
        show(list_shapes(), shape_blocks, showing)
        return
    if asked.shape_name is None:
        raise UsageError("which shape? --shape NAME; --list prints those that are known")
    if out is None and written:
        raise UsageError("where to? name the file to write, or use --dry-run")
    shape = find_shape(asked.shape_name, asked.n_layer)
    if out is not None:
        check_output(out, (), force=force)
    blueprint = make_blueprint(shape, asked.type_name, seed=asked.seed)
    if out is not None and written:
        progress = TerminalProgress()
        synthesize(blueprint, out, force=force, check_load=writing.verify, progress=progress)
    show(synth_model(blueprint, out, written=written), blocks, showing)
