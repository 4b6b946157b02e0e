"""`ggprune synth`: a model with random weights and a well-known shape."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ggprune.cli.options import AsJson, Force
from ggprune.cli.progress import Bar
from ggprune.errors import UsageError


def synth_command(
    out: Annotated[
        Path | None,
        typer.Argument(metavar="OUT.gguf", show_default=False, help="The file to write."),
    ] = None,
    shape_name: Annotated[
        str | None,
        typer.Option(
            "--shape", metavar="NAME", show_default=False, help="llama-3.2-1b, ...; see --list."
        ),
    ] = None,
    type_name: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="Q4_K_M, Q8_0, F16, ...")
    ] = "Q4_K_M",
    n_layer: Annotated[
        int | None,
        typer.Option("--layers", metavar="N", show_default="the model's", help="Another depth."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the numbers.")] = 0,
    show_shapes: Annotated[bool, typer.Option("--list", help="Print the known shapes.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the exact size; write nothing.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Load the result in llama.cpp and decode."),
    ] = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a model with random weights and the exact shapes of a well-known one.

    It has that model's size and speed and nothing of its abilities: for measuring speed without a
    download. Layers weigh differently, the first and the last ones most; any text can be tokenized.

    Example: ggprune synth --shape llama-3.2-1b --type Q4_K_M random.gguf
    """
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_output
    from ggprune.pipeline.synth import find_shape, make_blueprint, synthesize
    from ggprune.report.synth import blocks, describe, list_shapes
    from ggprune.report.terminal import terminal

    if show_shapes:
        shapes = list_shapes()
        print(to_text(shapes) if as_json else terminal(blocks(shapes)), end="")
        return
    if shape_name is None:
        raise UsageError("which shape? --shape NAME; --list prints those that are known")
    if out is None and not dry_run:
        raise UsageError("where to? name the file to write, or use --dry-run")
    shape = find_shape(shape_name, n_layer)
    if out is not None:
        check_output(out, (), force=force)
    blueprint = make_blueprint(shape, type_name, seed=seed)
    if out is not None and not dry_run:
        synthesize(blueprint, out, force=force, check_load=verify, bars=Bar)
    model = describe(blueprint, out, written=not dry_run)
    print(to_text(model) if as_json else terminal(blocks(model)), end="")
