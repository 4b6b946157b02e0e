"""What the quantizer is going to make of a file, worked out by dry runs before any work.

The numbers in patterns are those of the unpruned model; here they become those of the file. A file
that is of the type already is copied. Runs llama.cpp: where, is for the caller to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.arch.hparams import mtp_blocks
from ggprune.errors import DataError, LlamaError, UsageError, VerificationError
from ggprune.model.gguf import plain_shape
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import Value, ValueType, scalar, string
from ggprune.model.model import Model, open_model
from ggprune.model.names import block_of
from ggprune.model.types import tensor_type
from ggprune.quantize.checks import check_quantizable, check_types
from ggprune.quantize.missing import missing_entries
from ggprune.quantize.options import FILE_TYPES, QuantizeOptions, TensorTypeRule
from ggprune.quantize.patterns import exact_rules, match_rules
from ggprune.quantize.quantizer import added_metadata, dry_run
from ggprune.surgery.contents import Contents
from ggprune.surgery.plan import PrunePlan

# Set by the quantizer whether the source has them or not.
FILE_TYPE = "general.file_type"
QUANTIZER_NUMBERS = ("general.quantization_version", FILE_TYPE)
# And what llama-quantize asks it to set.
QUANTIZER_KEYS = (
    *QUANTIZER_NUMBERS, "quantize.imatrix.file", "quantize.imatrix.dataset",
    "quantize.imatrix.entries_count", "quantize.imatrix.chunks_count",
)  # fmt: skip
# As llama_model_quantize stores overrides; a str is a string.
STORED_AS = {bool: ValueType.BOOL, int: ValueType.UINT32, float: ValueType.FLOAT32}


@dataclass(frozen=True)
class Unpruned:
    """The model that a pruned file comes from: patterns speak of its tensors."""

    model: Model
    names: Mapping[str, str]  # new tensor names by old ones
    beside_cuts: frozenset[str]  # new names of the tensors in the blocks on both sides of a cut


@dataclass(frozen=True)
class Forecast:
    """What the quantizer makes of a file, with options that speak of the file's own names."""

    options: QuantizeOptions
    types: Mapping[str, str] | None  # by tensor, in the order of the result; None: all are copied
    added: Mapping[str, Value]  # metadata that the quantizer is told to write
    notes: tuple[str, ...] = ()  # what a user must know about the result


def forecast(
    model: Model, options: QuantizeOptions, imatrix: Imatrix | None, unpruned: Unpruned | None
) -> Forecast:
    """Of a file, of which the header is enough; the names in `imatrix` are the file's own.

    Raises UsageError, LlamaError or DataError for whatever the quantizer would stumble over.
    """
    check_quantizable(model, imatrix)
    if options.tensor_types:
        options = replace(options, tensor_types=_own_rules(model, options, unpruned))
    types = dry_run(model, options, imatrix)
    bumped: tuple[str, ...] = ()
    if (better := options.bump_interface) is not None and unpruned is not None:
        quantized = _quantized(model, types)
        low = [name for name, made in quantized.items() if _bits(made) < _bits(better)]
        raised = {name: better for name in low if name in unpruned.beside_cuts}
        if raised:
            options = replace(options, tensor_types=exact_rules(quantized | raised))
            types = dry_run(model, options, imatrix)
        bumped = (f"{len(raised)} tensors beside the cuts are stored in {better} instead of less",)
    n_changed = sum(types[t.name] != t.type.name for t in model.tensors)
    if _is_there(model, options, n_changed):
        what = ", not quantized again"
        if n_changed:
            what = f"; --allow-requantize would give {n_changed} of them another type, at a loss"
        note = f"the model is {options.type} already: its tensors are copied{what}"
        return Forecast(options, None, {}, (note,))
    old_names = {new: old for old, new in unpruned.names.items()} if unpruned else {}
    known_as = {t.name: old_names.get(t.name, t.name) for t in model.tensors}
    check_types(model, types, options, imatrix, known_as)
    notes = missing_entries(types, imatrix, known_as) + bumped
    return Forecast(options, types, _added(options, imatrix), notes)


def forecast_each(
    model: Model, all_options: Sequence[QuantizeOptions], imatrix: Imatrix | None
) -> tuple[Forecast | None, ...]:
    """For each of the options, without patterns; None for types the model's shapes do not allow."""
    forecasts: list[Forecast | None] = [None] * len(all_options)
    for i, options in enumerate(all_options):
        with contextlib.suppress(LlamaError, DataError):
            types = dry_run(model, options, imatrix)
            check_types(model, types, options, imatrix)
            forecasts[i] = Forecast(options, types, _added(options, imatrix))
    return tuple(forecasts)


def quantized_contents(contents: Contents, forecast: Forecast) -> Contents:
    """The contents after quantizing, as far as sizes go: values of added keys, not their order."""
    if forecast.types is None:
        return contents
    by_name = {t.name: t for t in contents.tensors}
    made = ((by_name[name], tensor_type(kind)) for name, kind in forecast.types.items())
    tensors = tuple(replace(tensor, type=kind, source=None) for tensor, kind in made)
    numbers = dict.fromkeys(QUANTIZER_NUMBERS, scalar(ValueType.UINT32, 0))
    metadata = {**contents.metadata, **numbers, **forecast.added}
    return replace(contents, metadata=metadata, tensors=tensors)


def verify_quantized(source: Model, path: Path, forecast: Forecast) -> None:
    """Check that the quantizer made of `source` what was forecast, and changed nothing else.

    Raises VerificationError at the first difference.
    """
    result, types = open_model(path), forecast.types or {}
    want = {t.name: (plain_shape(t.shape), types[t.name]) for t in source.tensors}
    have = {t.name: (plain_shape(t.shape), t.type.name) for t in result.tensors}
    if want != have:
        odd = sorted(want.items() ^ have.items())[0][0]
        raise VerificationError(f"{path}: tensor {odd} is missing, or has another shape or type")
    kept = {k: v for k, v in source.metadata.items() if k not in QUANTIZER_KEYS}
    for key, value in {**kept, **forecast.added}.items():
        if result.metadata.get(key) != value:
            raise VerificationError(f"{path}: metadata value {key} was changed by the quantizer")


def unpruned_of(model: Model, plan: PrunePlan, names: Mapping[str, str]) -> Unpruned:
    """With the last block before and the first behind each dropped run.

    MTP blocks do not carry the model's own stream of hidden states: they are neither.
    """
    beside: set[tuple[str, int]] = set()
    first, aside = 0, mtp_blocks(model)
    for stack, n_block in plan.stacks:
        layers = [x for x in plan.layers if first <= x.first < first + n_block]
        layers = [layer for layer in layers if layer.first not in aside]
        last = first + n_block - len(aside)
        expected = [first, *(layer.last + 1 for layer in layers)]  # if nothing had left
        found = [*(layer.first for layer in layers), last]
        for i, (want, have) in enumerate(zip(expected, found, strict=True)):
            if want != have:
                beside |= {(stack, n) for n in (i - 1, i) if 0 <= n < len(layers)}
            if i < len(layers) and not layers[i].is_whole:
                beside.add((stack, i))
        first += n_block
    new = frozenset(name for name in names.values() if block_of(name) in beside)
    return Unpruned(model, names, new)


def _own_rules(
    model: Model, options: QuantizeOptions, unpruned: Unpruned | None
) -> tuple[TensorTypeRule, ...]:
    """Rules that match in the file what the user's match where they look."""
    looked_at = None if options.new_numbers else unpruned
    matches = match_rules(looked_at.model if looked_at else model, options.tensor_types)
    if not matches:
        raise UsageError("no pattern of --tensor-type matches a tensor that can be quantized")
    if looked_at is None:
        return options.tensor_types
    names = looked_at.names
    return exact_rules({names[name]: made for name, made in matches.items() if name in names})


def _quantized(model: Model, types: Mapping[str, str]) -> dict[str, str]:
    """The types of all quantized tensors. All are pinned when some are raised: the quantizer
    counts layers by the tensors it decides on, so that one pattern shifts the mixture behind it."""
    made = {tensor.name: types[tensor.name] for tensor in model.tensors}
    return {name: kind for name, kind in made.items() if tensor_type(kind).block_size > 1}


def _bits(name: str) -> float:
    kind = tensor_type(name)
    return 8 * kind.block_bytes / kind.block_size


def _is_there(model: Model, options: QuantizeOptions, n_changed: int) -> bool:
    """Is the file of the wanted type already, and nothing else asked for?

    A pruned file is, though its depth would give it another mixture now: requantizing what is
    quantized costs quality and must be asked for.
    """
    stated = model.fields.integer(FILE_TYPE, -1)  # that is none
    if options.overrides or stated != FILE_TYPES[options.type]:
        return False
    plain = QuantizeOptions(
        options.type, n_threads=options.n_threads, max_buffer_mib=options.max_buffer_mib
    )
    return options == plain or not n_changed


def _added(options: QuantizeOptions, imatrix: Imatrix | None) -> dict[str, Value]:
    return {
        key: string(value) if isinstance(value, str) else scalar(STORED_AS[type(value)], value)
        for key, value in added_metadata(options, imatrix).items()
    }
