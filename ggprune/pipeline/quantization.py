"""What the quantizer is going to do with a file, settled by dry runs before any work; and doing it.

The numbers in patterns and importance matrices are those of the unpruned model; here they become
those of the file. A file that is of the wanted type already is copied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ggprune.arch import mtp_blocks
from ggprune.errors import DataError, GGPruneError, LlamaError
from ggprune.files.pending import PendingFile
from ggprune.model import Model, Value, ValueType
from ggprune.model.imatrix import Imatrix
from ggprune.model.layers import runs_of
from ggprune.model.metadata import scalar, string
from ggprune.model.types import tensor_type
from ggprune.pipeline.files import Bars, header_only, write_proved
from ggprune.quantize.options import COPY, FILE_TYPES, QuantizeOptions
from ggprune.quantize.params import added_metadata
from ggprune.quantize.patterns import Origin, Settled, settle
from ggprune.quantize.quantizer import DryRun, check_outcome, quantize
from ggprune.runtime.isolate import isolated
from ggprune.surgery import PrunePlan
from ggprune.surgery.contents import Contents, unchanged_contents
from ggprune.surgery.layout import lay_out, size_with
from ggprune.surgery.verify import verify_requantized

QUANTIZER_ALIGNMENT = 32  # llama_model_quantize pads to it whatever general.alignment says

# Set by the quantizer whether the source has them or not.
FILE_TYPE = "general.file_type"
QUANTIZER_NUMBERS = ("general.quantization_version", FILE_TYPE)


@dataclass(frozen=True)
class Quantization:
    """Options and importance matrix in the file's own numbers, and what they make of the file."""

    options: QuantizeOptions
    imatrix: Imatrix | None
    outcome: DryRun | None  # None: nothing is quantized, the tensors are copied
    notes: tuple[str, ...] = ()


def settle_whole(model: Model, options: QuantizeOptions, imatrix: Imatrix | None) -> Quantization:
    """For a file as it is. `imatrix` names the tensors as the file does.

    Raises UsageError, LlamaError or DataError for whatever the quantizer would stumble over.
    """
    return _settle(model, options, filtered(imatrix, options, model), None)


def settle_pruned(
    model: Model,
    plan: PrunePlan,
    contents: Contents,
    options: QuantizeOptions,
    imatrix: Imatrix | None,
) -> Quantization:
    """For the file that `plan` makes of `model`; `imatrix` is the unpruned model's."""
    imatrix = filtered(imatrix, options, model)
    renamed = imatrix.renamed(contents.names) if imatrix else None
    origin = Origin(model.path, contents.names, _interface(model, plan, contents))
    with header_only(lay_out(model, contents)) as hollow:
        try:
            return _settle(hollow, options, renamed, origin)
        except GGPruneError as e:
            raise type(e)(str(e).replace(str(hollow.path), str(model.path))) from e


def _settle(
    model: Model, options: QuantizeOptions, imatrix: Imatrix | None, origin: Origin | None
) -> Quantization:
    """All in the numbers of `model`, but for `origin`."""
    if options.type == COPY and not options.overrides:
        return Quantization(options, None, None)
    check_quantizable(model, imatrix)
    settled = isolated(settle, model.path, model.tensors, options, imatrix, origin)
    if _is_there(model, options, settled):
        return Quantization(settled.options, None, None, (_copied(model, settled),))
    old_names = {new: old for old, new in origin.names.items()} if origin else {}
    check_outcome(model.path, model.tensors, settled.outcome, settled.options, imatrix, old_names)
    notes = (*_missing_entries(model, settled.outcome, imatrix), *_raised(settled, origin))
    return Quantization(settled.options, imatrix, settled.outcome, notes)


def filtered(imatrix: Imatrix | None, options: QuantizeOptions, model: Model) -> Imatrix | None:
    """The entries that --include-weights and --exclude-weights leave.

    The tensors of `model` that these options leave out may do without an entry, and so may those
    of MTP blocks, which llama-imatrix never runs.
    Raises DataError if no entry is left: nothing should be quantized without a matrix by accident.
    """
    if imatrix is None:
        return None
    entries = {n: values for n, values in imatrix.entries.items() if _is_included(n, options)}
    if imatrix.entries and not entries:
        raise DataError(f"{imatrix.path}: --include-weights, --exclude-weights leave no entry")
    left_out = {t.name for t in model.tensors if not _is_included(t.name, options)}
    left_out |= {t.name for n in mtp_blocks(model) for t in model.layers[n]}
    return replace(imatrix, entries=entries, left_out=imatrix.left_out | left_out)


def _is_included(name: str, options: QuantizeOptions) -> bool:
    if any(part in name for part in options.exclude_weights):
        return False
    return not options.include_weights or any(part in name for part in options.include_weights)


def check_quantizable(model: Model, imatrix: Imatrix | None) -> None:
    """Raises LlamaError if the quantizer would garble the file, DataError for a strange imatrix."""
    if model.alignment != QUANTIZER_ALIGNMENT:
        raise LlamaError(
            f"{model.path}: llama.cpp's quantizer cannot write general.alignment = "
            f"{model.alignment}, only {QUANTIZER_ALIGNMENT}"
        )
    if imatrix is not None and not any(t.name in imatrix.entries for t in model.tensors):
        raise DataError(f"{imatrix.path}: has no entry for any tensor of {model.path}")


def announced(contents: Contents, quantization: Quantization) -> Contents:
    """The contents after quantizing, as far as sizes go: values of added keys, not their order."""
    if quantization.outcome is None:
        return contents
    types, by_name = quantization.outcome.types, {t.name: t for t in contents.tensors}
    tensors = tuple(replace(by_name[n], type=tensor_type(types[n]), source=None) for n in types)
    metadata = {**contents.metadata, **_numbers(), **_added(quantization)}
    return replace(contents, metadata=metadata, tensors=tensors)


def file_size(model: Model, quantization: Quantization) -> int:
    """Exact bytes of the single file that the model becomes."""
    if quantization.outcome is None:
        return lay_out(model, unchanged_contents(model)).size_bytes
    added = _numbers() | _added(quantization)
    return size_with(model, added, quantization.outcome.tensor_bytes)


def quantize_settled(
    source: Model, target: PendingFile, quantization: Quantization, bars: Bars
) -> None:
    """Quantize in a child process and check that what was announced changed and nothing else."""
    if quantization.outcome is None:
        contents = unchanged_contents(source)
        write_proved(contents, [lay_out(source, contents)], [target], bars)
        return
    options, imatrix = quantization.options, quantization.imatrix
    bar = bars(f"quantize to {options.type}")
    with target.named():
        isolated(quantize, source.path, target.path, options, imatrix, bar)
        verify_requantized(source, target.path, quantization.outcome.types, _added(quantization))


def _is_there(model: Model, options: QuantizeOptions, settled: Settled) -> bool:
    """Is the file of the wanted type already, and nothing else asked for?

    A pruned file is, though its depth would give it another mixture now: requantizing what is
    quantized costs quality and must be asked for.
    """
    if options.overrides or not _is_called(model, options.type):
        return False
    plain = QuantizeOptions(
        options.type, n_threads=options.n_threads, max_buffer_mib=options.max_buffer_mib
    )
    return options == plain or not _changed(model, settled)


def _is_called(model: Model, type_name: str) -> bool:
    stated = model.metadata.get(FILE_TYPE)
    return stated is not None and bool(stated.decode() == FILE_TYPES[type_name])


def _changed(model: Model, settled: Settled) -> list[str]:
    """Tensors that the quantizer would give another type."""
    types = settled.outcome.types
    return [t.name for t in model.tensors if types[t.name] != t.type.name]


def _copied(model: Model, settled: Settled) -> str:
    note = f"the model is {settled.options.type} already: its tensors are copied"
    n_other = len(_changed(model, settled))
    if not n_other:
        return f"{note}, not quantized again"
    return f"{note}; --allow-requantize would give {n_other} of them another type, at a loss"


def _interface(model: Model, plan: PrunePlan, contents: Contents) -> frozenset[str]:
    """New names of the tensors in the last block before and the first behind each dropped run.

    MTP blocks do not carry the model's own stream of hidden states: they are neither.
    """
    beside: set[int] = set()
    first, aside = 0, mtp_blocks(model)
    for _, n_block in plan.stacks:
        stack = [n for n in range(first, first + n_block) if n not in aside]
        kept = [n for n in stack if n not in plan.drop]
        for start, end in runs_of(set(stack) & set(plan.drop)):
            beside |= set([n for n in kept if n < start][-1:] + [n for n in kept if n > end][:1])
        first += n_block
    names = (t.name for n in beside for t in model.layers[n])
    return frozenset(contents.names[name] for name in names if name in contents.names)


def _missing_entries(model: Model, outcome: DryRun, imatrix: Imatrix | None) -> tuple[str, ...]:
    if imatrix is None:
        return ()
    made = {t.name: tensor_type(outcome.types[t.name]) for t in model.tensors}
    quantized = [t.name for t in model.tensors if made[t.name].block_size > 1]
    without = [name for name in quantized if name not in imatrix.entries]
    if not without:
        return ()
    shown = ", ".join(without[:3]) + (", ..." if len(without) > 3 else "")
    return (
        f"{len(without)} of {len(quantized)} tensors are quantized without an entry of "
        f"{imatrix.path.name}, as by llama-quantize: {shown}",
    )


def _raised(settled: Settled, origin: Origin | None) -> tuple[str, ...]:
    better = settled.options.bump_interface
    if better is None or origin is None:
        return ()
    return (f"{settled.n_raised} tensors beside the cuts are stored in {better} instead of less",)


def _numbers() -> dict[str, Value]:
    return {key: scalar(ValueType.UINT32, 0) for key in QUANTIZER_NUMBERS}


def _added(quantization: Quantization) -> dict[str, Value]:
    values = added_metadata(quantization.options, quantization.imatrix)
    return {key: _value(value) for key, value in values.items()}


def _value(value: bool | int | float | str) -> Value:
    """As llama_model_quantize stores overrides."""
    if isinstance(value, str):
        return string(value)
    if isinstance(value, bool):
        return scalar(ValueType.BOOL, value)
    return scalar(ValueType.UINT32 if isinstance(value, int) else ValueType.FLOAT32, value)
