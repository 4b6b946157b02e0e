"""`ggprune quantize`: another type, through llama.cpp's quantizer."""

from __future__ import annotations

from typing import Annotated

import typer

from ggprune.cli.options import (
    AllowRequantize,
    AsJson,
    Force,
    ImatrixFile,
    ModelPath,
    OutPath,
    Threads,
    Verify,
)
from ggprune.cli.progress import Bar


def quantize_command(
    source: ModelPath,
    out: OutPath,
    type_name: Annotated[
        str, typer.Argument(metavar="TYPE", show_default=False, help="Q4_K_M, Q8_0, F16, ...")
    ],
    imatrix: ImatrixFile = None,
    allow_requantize: AllowRequantize = False,
    pure: Annotated[bool, typer.Option("--pure", help="All tensors in one type.")] = False,
    leave_output_tensor: Annotated[
        bool, typer.Option("--leave-output-tensor", help="Leave output.weight as it is.")
    ] = False,
    threads: Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the exact size; write nothing.")
    ] = False,
    verify: Verify = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Quantize a model with llama.cpp's own quantizer; the tensors are those of llama-quantize.

    Example: ggprune quantize model-f16.gguf model-q4.gguf Q4_K_M
    """
    from ggprune.model import open_model
    from ggprune.model.imatrix import read_imatrix
    from ggprune.pipeline import requantize, requantized_size
    from ggprune.report.jsontext import to_json
    from ggprune.report.units import size
    from ggprune.runtime.quantize import QuantizeOptions, parse_type
    from ggprune.surgery.output import check_outputs

    options = QuantizeOptions(
        parse_type(type_name), allow_requantize, pure, leave_output_tensor, threads
    )
    model = open_model(source)
    check_outputs([out], [*(f.path for f in model.files), imatrix], force=force)
    matrix = read_imatrix(imatrix) if imatrix is not None else None
    if dry_run:
        size_bytes = requantized_size(model, options, matrix)
    else:
        size_bytes = requantize(
            model, out, options, imatrix=matrix, force=force, check_load=verify, bars=Bar
        ).size_bytes
    if as_json:
        document = {
            "source": {"path": str(source), "size_bytes": model.size_bytes},
            "type": options.type,
            "out": {"path": str(out), "size_bytes": size_bytes, "written": not dry_run},
        }
        print(to_json(document), end="")
        return
    verb = "would be" if dry_run else "written "
    print(f"type     {options.type}")
    print(f"size     {size(model.size_bytes)} -> {size(size_bytes)}")
    print(f"bytes    {size_bytes}")
    print(f"{verb} {out}")
