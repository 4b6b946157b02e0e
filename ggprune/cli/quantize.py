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
from ggprune.cli.quantize_options import (
    ExcludeWeights,
    IncludeWeights,
    LeaveOutputTensor,
    MaxBufferSize,
    OutputTensorType,
    OverrideKv,
    Pure,
    TensorTypeFile,
    TensorTypes,
    TokenEmbeddingType,
    quantize_options,
)


def quantize_command(
    source: ModelPath,
    out: OutPath,
    type_name: Annotated[
        str,
        typer.Argument(metavar="TYPE", show_default=False, help="Q4_K_M, Q8_0, F16, COPY, ..."),
    ],
    imatrix: ImatrixFile = None,
    include_weights: IncludeWeights = None,
    exclude_weights: ExcludeWeights = None,
    tensor_types: TensorTypes = None,
    tensor_type_file: TensorTypeFile = None,
    output_tensor_type: OutputTensorType = None,
    token_embedding_type: TokenEmbeddingType = None,
    leave_output_tensor: LeaveOutputTensor = False,
    pure: Pure = False,
    allow_requantize: AllowRequantize = False,
    override_kv: OverrideKv = None,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="Write shards where the input has shards.")
    ] = False,
    max_buffer_size: MaxBufferSize = None,
    threads: Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the exact size; write nothing.")
    ] = False,
    verify: Verify = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Quantize a model with llama.cpp's own quantizer; the tensors are those of llama-quantize.

    What llama-quantize stumbles over in the middle of its work is refused before it: an entry of
    the importance matrix that is missing or does not fit, a pattern that matches nothing. Tensors
    that are to do without an entry are named with --exclude-weights. A model that is of the type
    already is copied.

    Example: ggprune quantize model-f16.gguf model-q4.gguf Q4_K_M
    """
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_outputs
    from ggprune.model import open_model
    from ggprune.model.imatrix import read_imatrix
    from ggprune.pipeline import requantize
    from ggprune.pipeline.prune import planned_requantized
    from ggprune.report.terminal import terminal
    from ggprune.report.written import blocks, quantized_model

    options = quantize_options(
        type_name, threads=threads, imatrix=imatrix, tensor_types=tensor_types,
        tensor_type_file=tensor_type_file, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type, include_weights=include_weights,
        exclude_weights=exclude_weights, override_kv=override_kv, max_buffer_size=max_buffer_size,
        leave_output_tensor=leave_output_tensor, pure=pure, allow_requantize=allow_requantize,
    )  # fmt: skip
    assert options is not None
    model = open_model(source)
    inputs = [*(f.path for f in model.files), imatrix, tensor_type_file]
    check_outputs([out], inputs, force=force)
    matrix = read_imatrix(imatrix) if imatrix is not None else None
    if dry_run:
        result = planned_requantized(model, out, options, imatrix=matrix, keep_split=keep_split)
    else:
        result = requantize(
            model, out, options, imatrix=matrix, keep_split=keep_split, force=force,
            check_load=verify, bars=Bar,
        )  # fmt: skip
    done = quantized_model(model, options.type, result, written=not dry_run)
    print(to_text(done) if as_json else terminal(blocks(done)), end="")
