"""The job of `ggprune prune`: plan -> rewrite -> requantize -> verify -> publish.

The output appears under its name only when everything has been proved; whatever fails, there is
nothing to clean up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.files.outputs import check_output
from ggprune.files.pending import PendingFile, disk_errors
from ggprune.model import Model, open_model
from ggprune.model.imatrix import Imatrix
from ggprune.pipeline.files import (
    Bars,
    OutputFiles,
    no_bars,
    publish,
    write_proved,
    write_published,
)
from ggprune.pipeline.quantization import (
    Quantization,
    announced,
    file_size,
    quantize_settled,
    settle_pruned,
    settle_whole,
)
from ggprune.quantize.options import QuantizeOptions
from ggprune.surgery import PrunePlan
from ggprune.surgery.contents import Contents, unchanged_contents
from ggprune.surgery.layout import (
    Split,
    checked_contents,
    in_groups,
    lay_out,
    lay_out_shards,
    shard_names,
    split_as,
)


def prune(
    model: Model,
    plan: PrunePlan,
    out: Path,
    *,
    options: QuantizeOptions | None = None,
    imatrix: Imatrix | None = None,
    split: Split | None = None,
    keep_split: bool = False,
    force: bool = False,
    check_load: bool = True,
    bars: Bars = no_bars,
) -> OutputFiles:
    """Write the model without the plan's layers, requantized if `options` are given.

    With `split`, or `keep_split` and a split input, shards are written that are named after `out`.
    Raises OutputError before any work if `out` must not or cannot be written, VerificationError or
    LlamaError if the result is not what it should be; then nothing is left behind.
    """
    contents, inputs = checked_contents(model, plan), [file.path for file in model.files]
    how = _Output(out, split_as(model, contents) if keep_split else split, force, check_load, bars)
    if options is None:
        return how.write(model, contents, inputs)
    quantization = settle_pruned(model, plan, contents, options, imatrix)
    if quantization.outcome is None:
        return replace(how.write(model, contents, inputs), notes=quantization.notes)
    between = lay_out(model, contents).size_bytes
    _check_room(_plan_files(model, contents, quantization, out, how.split), inputs, force, between)
    with disk_errors(out), PendingFile(out) as result:
        _prune_into(model, contents, result, quantization, bars)
        return how.publish(result, inputs, quantization.notes)


@dataclass(frozen=True)
class _Output:
    """Where a job's result goes."""

    out: Path
    split: Split | None
    force: bool
    check_load: bool
    bars: Bars

    def write(self, model: Model, contents: Contents, inputs: Sequence[Path]) -> OutputFiles:
        return write_published(
            model, contents, inputs, self.out, split=self.split, force=self.force,
            check_load=self.check_load, bars=self.bars,
        )  # fmt: skip

    def publish(
        self, whole: PendingFile, inputs: Sequence[Path], notes: tuple[str, ...]
    ) -> OutputFiles:
        """Publish a finished file, or the shards that it is divided into."""
        if self.split is None:
            done = publish([whole], force=self.force, check_load=self.check_load)
        else:
            model = open_model(whole.path)
            done = self.write(model, in_groups(unchanged_contents(model), self.split), inputs)
        return replace(done, notes=notes)


def _check_room(planned: OutputFiles, inputs: Sequence[Path], force: bool, between: int) -> None:
    """Refuse before any work; `between` are bytes of the file that is there meanwhile."""
    for path in planned.paths:
        check_output(path, inputs, force=force, size_bytes=planned.size_bytes + between)


def prune_into(
    model: Model,
    plan: PrunePlan,
    target: PendingFile,
    options: QuantizeOptions | None,
    imatrix: Imatrix | None,
    bars: Bars = no_bars,
) -> None:
    """Write and prove the pruned model as one file; requantizing takes another one for a while."""
    contents, quantization = checked_contents(model, plan), None
    if options is not None:
        quantization = settle_pruned(model, plan, contents, options, imatrix)
    _prune_into(model, contents, target, quantization, bars)


def _prune_into(
    model: Model,
    contents: Contents,
    target: PendingFile,
    quantization: Quantization | None,
    bars: Bars,
) -> None:
    layout = lay_out(model, contents)
    if quantization is None or quantization.outcome is None:
        write_proved(contents, [layout], [target], bars)
        return
    with PendingFile(target.target) as pruned:
        written = write_proved(contents, [layout], [pruned], bars)
        with pruned.named():
            quantize_settled(written, target, quantization, bars)


def requantize(
    model: Model,
    out: Path,
    options: QuantizeOptions,
    *,
    imatrix: Imatrix | None = None,
    keep_split: bool = False,
    force: bool = False,
    check_load: bool = True,
    bars: Bars = no_bars,
) -> OutputFiles:
    """Write the model in another type, in shards like its own if wanted. Errors as `prune`."""
    contents, inputs = unchanged_contents(model), [file.path for file in model.files]
    how = _Output(out, split_as(model, contents) if keep_split else None, force, check_load, bars)
    quantization = settle_whole(model, options, imatrix)
    if quantization.outcome is None:
        return replace(how.write(model, contents, inputs), notes=quantization.notes)
    _check_room(_plan_files(model, contents, quantization, out, how.split), inputs, force, 0)
    with disk_errors(out), PendingFile(out) as result:
        quantize_settled(model, result, quantization, bars)
        return how.publish(result, inputs, quantization.notes)


def quantize_into(
    source: Model,
    target: PendingFile,
    options: QuantizeOptions,
    imatrix: Imatrix | None,
    bars: Bars,
) -> None:
    """Write and prove the model in another type as one file."""
    quantize_settled(source, target, settle_whole(source, options, imatrix), bars)


def planned(
    model: Model,
    plan: PrunePlan,
    out: Path,
    *,
    options: QuantizeOptions | None = None,
    imatrix: Imatrix | None = None,
    split: Split | None = None,
    keep_split: bool = False,
) -> OutputFiles:
    """The files that `prune` would write, with their exact size; writes nothing."""
    contents, quantization = checked_contents(model, plan), None
    if options is not None:
        quantization = settle_pruned(model, plan, contents, options, imatrix)
    divided = split_as(model, contents) if keep_split else split
    return _plan_files(model, contents, quantization, out, divided)


def planned_requantized(
    model: Model,
    out: Path,
    options: QuantizeOptions,
    *,
    imatrix: Imatrix | None = None,
    keep_split: bool = False,
) -> OutputFiles:
    """The files that `requantize` would write, with their exact size; writes nothing."""
    contents, quantization = unchanged_contents(model), settle_whole(model, options, imatrix)
    split = split_as(model, contents) if keep_split else None
    return _plan_files(model, contents, quantization, out, split)


def _plan_files(
    model: Model,
    contents: Contents,
    quantization: Quantization | None,
    out: Path,
    split: Split | None,
) -> OutputFiles:
    notes: tuple[str, ...] = ()
    if quantization is not None:
        contents, notes = announced(contents, quantization), quantization.notes
        contents = in_groups(contents, split) if split is not None else contents
    layouts = lay_out_shards(model, contents, split)
    size_bytes = sum(layout.size_bytes for layout in layouts)
    return OutputFiles(shard_names(out, len(layouts)), size_bytes, notes)


def pruned_size(
    model: Model, plan: PrunePlan, options: QuantizeOptions | None, imatrix: Imatrix | None
) -> int:
    """Exact bytes of the single file that `prune` would write, without writing it."""
    return planned(model, plan, model.path, options=options, imatrix=imatrix).size_bytes


def requantized_size(model: Model, options: QuantizeOptions, imatrix: Imatrix | None) -> int:
    """Exact bytes of the single file that `requantize` would write, without writing it."""
    return file_size(model, settle_whole(model, options, imatrix))
