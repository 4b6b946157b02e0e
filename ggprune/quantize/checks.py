"""What is refused before any work: the quantizer would stumble over it, or garble the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ggprune.arch.hparams import mtp_blocks
from ggprune.errors import DataError, LlamaError
from ggprune.model.gguf import ALIGNMENT, DEFAULT_ALIGNMENT
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import Value, ValueType
from ggprune.model.model import Model
from ggprune.quantize.missing import check_entries, needs_imatrix
from ggprune.quantize.options import QuantizeOptions

ARRAY_HEADER_BYTES = 12  # element type and count


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

    Raises LlamaError for a tensor that is quantized already or needs an importance matrix, or for
    metadata that would be changed, and
    DataError for an entry of that matrix that is missing or does not fit, each with the name;
    `known_as` has the names by which the user knows the tensors where these differ.
    """
    check_metadata(model, options)
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
        check_entries(model, types, options, imatrix, names)


def check_metadata(model: Model, options: QuantizeOptions) -> None:
    """Raises LlamaError for a value that would be changed on its way: the quantizer passes texts as
    C strings, and bools as C++ has them.
    """
    anew = {override.key for override in options.overrides}
    for key, value in model.metadata.items():
        flaw = _flaw(value) if key not in anew else None
        if flaw is not None or "\0" in key:
            raise LlamaError(
                f"{model.path}: metadata value {key} {flaw or 'has a NUL byte in its name'}, which "
                "llama.cpp's quantizer would change: repair the metadata first"
            )


def _flaw(value: Value) -> str | None:
    kind, is_array = value.element_type or value.type, value.type == ValueType.ARRAY
    if kind == ValueType.STRING:
        texts = value.decode()
        has_nul = any("\0" in text for text in (texts if is_array else [texts]))
        return "has a NUL byte in it" if has_nul else None
    if kind == ValueType.BOOL:
        numbers = bytes(value.raw)[ARRAY_HEADER_BYTES if is_array else 0 :]
        return "is a bool that is neither 0 nor 1" if set(numbers) - {0, 1} else None
    return None
