"""`ggprune prune`: drop layers from a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ggprune.cli.options import (
    AllowRequantize,
    AsJson,
    DropMtp,
    Force,
    ImatrixFile,
    ModelPath,
    OutPath,
    Threads,
    Trust,
    Verify,
)
from ggprune.cli.progress import Bar
from ggprune.cli.quantize_options import (
    BumpInterface,
    ExcludeWeights,
    IncludeWeights,
    LeaveOutputTensor,
    NewNumbers,
    OutputTensorType,
    Pure,
    TensorTypeFile,
    TensorTypes,
    TokenEmbeddingType,
    TypeOption,
    quantize_options,
)
from ggprune.errors import UsageError

if TYPE_CHECKING:
    from ggprune.model import Model
    from ggprune.surgery import PrunePlan


def prune_command(
    source: ModelPath,
    out: OutPath,
    prune_layers: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            show_default=False,
            help="Layers to drop: 20,21 or 20-22 or -1 (the last one), joined by commas.",
        ),
    ] = None,
    keep_layers: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", show_default=False, help="Layers to keep; drop the rest."),
    ] = None,
    plan_file: Annotated[
        Path | None,
        typer.Option("--plan", show_default=False, help="Drop what a plan.json says."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            show_default=False,
            help="Drop what a rank or choose has chosen, or its --drop least important layers.",
        ),
    ] = None,
    drop: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="How many layers, with --scores.")
    ] = None,
    save_plan: Annotated[
        Path | None, typer.Option(show_default=False, help="Write the plan as JSON.")
    ] = None,
    type_name: TypeOption = None,
    imatrix: ImatrixFile = None,
    include_weights: IncludeWeights = None,
    exclude_weights: ExcludeWeights = None,
    tensor_types: TensorTypes = None,
    tensor_type_file: TensorTypeFile = None,
    new_numbers: NewNumbers = False,
    output_tensor_type: OutputTensorType = None,
    token_embedding_type: TokenEmbeddingType = None,
    leave_output_tensor: LeaveOutputTensor = False,
    pure: Pure = False,
    bump_interface: BumpInterface = None,
    allow_requantize: AllowRequantize = False,
    drop_mtp: DropMtp = False,
    split_max_size: Annotated[
        str | None,
        typer.Option(
            metavar="N(M|G)",
            show_default=False,
            help="Write shards of at most N megabytes or gigabytes of tensors: OUT-00001-of-...",
        ),
    ] = None,
    split_max_tensors: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Write shards of at most N tensors."),
    ] = None,
    keep_split: Annotated[
        bool, typer.Option("--keep-split", help="Write shards where the input has shards.")
    ] = False,
    trust: Trust = False,
    threads: Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan and exact size; write nothing.")
    ] = False,
    verify: Verify = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Drop layers from a GGUF file, renumber the rest, keep everything else byte for byte.

    Kept tensors are copied, not decoded; a quantized file stays exactly as it is quantized, unless
    --type asks for another type. The output appears only when it is complete and verified.

    Example: ggprune prune --prune-layers 20-22 model.gguf model-29.gguf
    """
    from ggprune.files.documents import to_text
    from ggprune.files.outputs import check_outputs
    from ggprune.files.pending import write_text
    from ggprune.model import open_model
    from ggprune.model.imatrix import read_imatrix
    from ggprune.pipeline.prune import planned, prune
    from ggprune.report.terminal import terminal
    from ggprune.report.written import blocks, pruned_model
    from ggprune.surgery.layout import Split

    split = None
    if split_max_size is not None or split_max_tensors is not None:
        max_bytes = _size_bytes(split_max_size) if split_max_size is not None else None
        split = Split(max_bytes, split_max_tensors)
    if split is not None and keep_split:
        raise UsageError("--keep-split divides as the input is: leave out the other split options")
    options = quantize_options(
        type_name, threads=threads, imatrix=imatrix, tensor_types=tensor_types,
        tensor_type_file=tensor_type_file, output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type, include_weights=include_weights,
        exclude_weights=exclude_weights, bump_interface=bump_interface, new_numbers=new_numbers,
        leave_output_tensor=leave_output_tensor, pure=pure, allow_requantize=allow_requantize,
    )  # fmt: skip
    model = open_model(source)
    plan = _plan(
        model, prune_layers, keep_layers, plan_file, scores, drop, drop_mtp=drop_mtp, trust=trust
    )
    inputs = [*(file.path for file in model.files), plan_file, scores, imatrix, tensor_type_file]
    check_outputs([out, save_plan], inputs, force=force)
    matrix = read_imatrix(imatrix) if imatrix is not None else None
    how: dict[str, Any] = {
        "options": options, "imatrix": matrix, "split": split, "keep_split": keep_split,
    }  # fmt: skip
    if dry_run:
        result = planned(model, plan, out, **how)
    else:
        result = prune(model, plan, out, **how, force=force, check_load=verify, bars=Bar)
    if save_plan is not None:
        write_text(save_plan, plan.to_json(), force=force)
    done = pruned_model(model, plan, result, written=not dry_run)
    print(to_text(done) if as_json else terminal(blocks(done)), end="")


def _plan(
    model: Model,
    prune_layers: str | None,
    keep_layers: str | None,
    plan_file: Path | None,
    scores: Path | None,
    drop: int | None,
    *,
    drop_mtp: bool,
    trust: bool,
) -> PrunePlan:
    from ggprune.arch import mtp_blocks
    from ggprune.model.layers import parse_layers
    from ggprune.surgery import load_plan, make_plan

    choices = (prune_layers, keep_layers, plan_file, scores)
    if sum(choice is not None for choice in choices) > 1 or not (any(choices) or drop_mtp):
        raise UsageError(
            "say which layers: one of --prune-layers, --keep-layers, --plan or --scores"
        )
    if scores is None and drop is not None:
        raise UsageError("--drop goes with --scores: which ranking is it the number of layers of?")
    if plan_file is not None:
        return load_plan(plan_file, model)
    layers: set[int] = set()
    if scores is not None:
        layers = set(_scored_layers(scores, model, drop))
    elif prune_layers is not None:
        layers = set(parse_layers(prune_layers, model.n_layer))
    elif keep_layers is not None:
        layers = set(range(model.n_layer)) - set(parse_layers(keep_layers, model.n_layer))
    if drop_mtp:
        layers |= set(mtp_blocks(model))
    return make_plan(model, layers, trust=trust)


def _scored_layers(path: Path, model: Model, n_drop: int | None) -> tuple[int, ...]:
    """The chosen set, or the least important layers if it has another size."""
    from ggprune.pipeline import choose
    from ggprune.scoring import check_scores, read_scores

    scores = read_scores(path)
    check_scores(scores, model)
    chosen = scores.chosen
    if n_drop is None and chosen is None:
        raise UsageError(f"{path} has no chosen set of layers: add --drop N, or use ggprune choose")
    if chosen is not None and n_drop in (None, len(chosen)):
        return chosen
    assert n_drop is not None
    return choose(model, scores.order, n_drop)


def _size_bytes(text: str) -> int:
    """`512M` or `2G`, in llama-gguf-split's units: 1000 * 1000 and 1000 * 1000 * 1000 bytes."""
    units = {"M": 1000**2, "G": 1000**3}
    number, unit = text[:-1], text[-1:].upper()
    if unit not in units or not number.isdecimal() or int(number) == 0:
        raise UsageError(f"--split-max-size {text}: write a size like 512M or 2G")
    return int(number) * units[unit]
