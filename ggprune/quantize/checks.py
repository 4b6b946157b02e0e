"""What is refused before any work: the quantizer would stumble over it, or garble the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

from ggprune.arch import mtp_blocks
from ggprune.errors import DataError, LlamaError
from ggprune.model import Model, Tensor
from ggprune.model.gguf import ALIGNMENT, DEFAULT_ALIGNMENT
from ggprune.model.imatrix import Imatrix
from ggprune.model.names import HEAD
from ggprune.model.types import tensor_type
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.quantizer import EMBEDDINGS

# src/llama-quant.cpp, tensor_requires_imatrix
NEEDY_TYPES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
MEASURED = "blk."  # tools/imatrix/imatrix.cpp, collect_imatrix: what llama-imatrix measures


def select_entries(
    imatrix: Imatrix | None, options: QuantizeOptions, model: Model
) -> Imatrix | None:
    """The entries that --include-weights and --exclude-weights leave.

    The tensors of `model` that these options leave out may do without an entry, and so may those
    of MTP blocks, which llama-imatrix never runs.
    Raises DataError if no entry is left: nothing should be quantized without a matrix by accident.
    """
    if imatrix is None:
        return None

    def is_included(name: str) -> bool:
        parts = options.include_weights or options.exclude_weights  # never both
        return any(part in name for part in parts) == bool(options.include_weights)

    entries = {name: values for name, values in imatrix.entries.items() if is_included(name)}
    if imatrix.entries and not entries:
        raise DataError(f"{imatrix.path}: --include-weights, --exclude-weights leave no entry")
    left_out = {t.name for t in model.tensors if not is_included(t.name)}
    left_out |= {t.name for n in mtp_blocks(model) for t in model.layers[n]}
    return replace(imatrix, entries=entries, left_out=imatrix.left_out | left_out)


def check_quantizable(model: Model, imatrix: Imatrix | None) -> None:
    """Raises LlamaError if the quantizer would garble the file, DataError for a strange imatrix."""
    if model.alignment != DEFAULT_ALIGNMENT:
        told = f"{ALIGNMENT} = {model.alignment}, only {DEFAULT_ALIGNMENT}"
        raise LlamaError(f"{model.path}: llama.cpp's quantizer cannot write {told}")
    if imatrix is not None and not any(t.name in imatrix.entries for t in model.tensors):
        raise DataError(f"{imatrix.path}: has no entry for any tensor of {model.path}")


def check_types(
    model: Model, types: Mapping[str, str], options: QuantizeOptions, imatrix: Imatrix | None,
    known_as: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """What the real run would refuse in the middle of its work, or the user should not accept.

    Raises LlamaError for a tensor that is quantized already or needs an importance matrix, and
    DataError for an entry of that matrix that is missing or does not fit, each with the name;
    `known_as` has the names by which the user knows the tensors where these differ.
    """
    names = {t.name: (known_as or {}).get(t.name, t.name) for t in model.tensors}
    for tensor in model.tensors if imatrix is None else ():
        name, made = names[tensor.name], types[tensor.name]
        if needs_imatrix(tensor.name, made, options.type):
            raise LlamaError(
                f"{model.path}: cannot be quantized to {options.type} without an importance "
                f"matrix: {name} would become {made}; give one with --imatrix"
            )
    for tensor in (t for t in model.tensors if types[t.name] != t.type.name):
        name, made = names[tensor.name], types[tensor.name]
        if tensor.type.block_size > 1 and not options.allow_requantize:
            raise LlamaError(
                f"{model.path}: {name} is quantized already ({tensor.type.name}, it would become "
                f"{made}); --allow-requantize quantizes it again, at a loss of quality"
            )
        if imatrix is not None:
            _check_entry(tensor, name, made, options, imatrix)


def _check_entry(
    tensor: Tensor, name: str, made: str, options: QuantizeOptions, imatrix: Imatrix
) -> None:
    if tensor.name in imatrix.entries:
        # A value for every column of every expert. The quantizer too ignores what does not fit for
        # embeddings: llama-imatrix cannot see them.
        size, expected = (
            imatrix.entries[tensor.name].size,
            tensor.shape[0] * prod(tensor.shape[2:3]),
        )
        if size != expected and tensor.name not in EMBEDDINGS:
            told = f"{name} has {size} values, expected {expected}"
            raise DataError(f"{imatrix.path}: {told}: made for another model?")
        return
    missing = f"{imatrix.path}: has no entry for {name}, which"
    if needs_imatrix(tensor.name, made, options.type):
        raise DataError(f"{missing} {made} cannot do without")
    is_measured = tensor.name.startswith(MEASURED) and tensor.name not in imatrix.left_out
    if is_measured and tensor_type(made).block_size > 1:
        raise DataError(
            f"{missing} is to become {made}: made for another model? --exclude-weights {name} "
            "quantizes it without one"
        )


def needs_imatrix(name: str, made: str, file_type: str) -> bool:
    """Does the quantizer refuse to make this tensor so without an entry of an imatrix?"""
    if name == HEAD or name in EMBEDDINGS:
        return False
    return made in NEEDY_TYPES or (made == "Q2_K" and file_type == "Q2_K_S")


def missing_entries(
    model: Model, types: Mapping[str, str], imatrix: Imatrix | None
) -> tuple[str, ...]:
    """What to say of tensors that are quantized without an entry."""
    if imatrix is None:
        return ()
    quantized = [t.name for t in model.tensors if tensor_type(types[t.name]).block_size > 1]
    without = [name for name in quantized if name not in imatrix.entries]
    if not without:
        return ()
    shown = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
    counts = f"{len(without)} of {len(quantized)} tensors are quantized without an entry of"
    return (f"{counts} {imatrix.path.name}, as by llama-quantize: {shown}",)
