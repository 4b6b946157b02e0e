"""The job of `ggprune prune`: plan -> rewrite -> requantize -> verify -> publish.

The output appears under its name only when everything has been proved; whatever fails, there is
nothing to clean up.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggprune.errors import DataError, LlamaAbortError, LlamaError, OutputError
from ggprune.model import Model, Value, ValueType, open_model
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import scalar, string
from ggprune.model.model import open_shards
from ggprune.runtime.isolate import isolated
from ggprune.runtime.loadcheck import check_loads
from ggprune.runtime.quantize import DryRun, QuantizeOptions, dry_run, imatrix_metadata, quantize
from ggprune.surgery import Layout, PrunePlan
from ggprune.surgery.contents import Contents, unchanged_contents
from ggprune.surgery.layout import (
    Split,
    checked_contents,
    in_groups,
    lay_out,
    lay_out_shards,
    shard_names,
    size_with,
    split_as,
)
from ggprune.surgery.output import PendingFile, check_output
from ggprune.surgery.rewrite import write_header, write_tensors
from ggprune.surgery.verify import ByteComparison, verify_requantized, verify_structure

Progress = Callable[[int, int], object]  # done, total
Bars = Callable[[str], Progress | None]  # a progress report for a step of that name

QUANTIZER_ALIGNMENT = 32  # llama_model_quantize pads to it whatever general.alignment says


# Set by the quantizer whether the source has them or not.
QUANTIZER_NUMBERS = ("general.quantization_version", "general.file_type")


def no_bars(_: str) -> Progress | None:
    return None


@dataclass(frozen=True)
class Written:
    """Files that were written, verified and published: one, or the shards of a split model."""

    paths: tuple[Path, ...]
    size_bytes: int


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
) -> Written:
    """Write the model without the plan's layers, requantized if `options` are given.

    With `split`, or `keep_split` and a split input, shards are written that are named after `out`.
    Raises OutputError before any work if `out` must not or cannot be written, VerificationError or
    LlamaError if the result is not what it should be; then nothing is left behind.
    """
    contents, inputs = checked_contents(model, plan), [file.path for file in model.files]
    if keep_split:
        split = split_as(model, contents)
    if options is None:
        return _write_published(model, contents, inputs, out, split, force, check_load, bars)
    size_bytes = lay_out(model, contents).size_bytes + pruned_size(model, plan, options, imatrix)
    check_output(out, inputs, force=force, size_bytes=size_bytes)
    with disk_errors(out), PendingFile(out) as result:
        prune_into(model, plan, result, options, imatrix, bars)
        if split is None:
            return publish([result], force=force, check_load=check_load)
        whole = open_model(result.path)
        divided = in_groups(unchanged_contents(whole), split)
        return _write_published(whole, divided, inputs, out, split, force, check_load, bars)


def _write_published(
    model: Model,
    contents: Contents,
    inputs: Sequence[Path],
    out: Path,
    split: Split | None,
    force: bool,
    check_load: bool,
    bars: Bars,
) -> Written:
    layouts = lay_out_shards(model, contents, split)
    targets = shard_names(out, len(layouts))
    size_bytes = sum(layout.size_bytes for layout in layouts)
    for target in targets:
        check_output(target, inputs, force=force, size_bytes=size_bytes)
    with disk_errors(out), contextlib.ExitStack() as stack:
        pending = [stack.enter_context(PendingFile(target)) for target in targets]
        _write(contents, layouts, pending, bars)
        return publish(pending, force=force, check_load=check_load)


def prune_into(
    model: Model,
    plan: PrunePlan,
    target: PendingFile,
    options: QuantizeOptions | None,
    imatrix: Imatrix | None,
    bars: Bars = no_bars,
) -> None:
    """Write and prove the pruned model as one file; requantizing takes another one for a while."""
    contents = checked_contents(model, plan)
    (layout,) = lay_out_shards(model, contents, None)
    if options is None:
        _write(contents, [layout], [target], bars)
        return
    renamed = imatrix.renamed(contents.names) if imatrix else None
    with PendingFile(target.target) as pruned:
        written = _write(contents, [layout], [pruned], bars)
        with pruned.named():
            quantize_into(written, target, options, renamed, bars)


def requantize(
    model: Model,
    out: Path,
    options: QuantizeOptions,
    *,
    imatrix: Imatrix | None = None,
    force: bool = False,
    check_load: bool = True,
    bars: Bars = no_bars,
) -> Written:
    """Write the model in another type. Errors as `prune`."""
    size_bytes = requantized_size(model, options, imatrix)
    check_output(out, [f.path for f in model.files], force=force, size_bytes=size_bytes)
    with disk_errors(out), PendingFile(out) as result:
        quantize_into(model, result, options, imatrix, bars)
        return publish([result], force=force, check_load=check_load)


def planned(
    model: Model,
    plan: PrunePlan,
    out: Path,
    *,
    options: QuantizeOptions | None = None,
    imatrix: Imatrix | None = None,
    split: Split | None = None,
    keep_split: bool = False,
) -> Written:
    """The files that `prune` would write, with their exact size; writes nothing.

    How many shards a requantized model would have is not known before it is: then it is `out`.
    """
    if options is not None:
        return Written((out,), pruned_size(model, plan, options, imatrix))
    contents = checked_contents(model, plan)
    layouts = lay_out_shards(model, contents, split_as(model, contents) if keep_split else split)
    return Written(shard_names(out, len(layouts)), sum(layout.size_bytes for layout in layouts))


def pruned_size(
    model: Model, plan: PrunePlan, options: QuantizeOptions | None, imatrix: Imatrix | None
) -> int:
    """Exact bytes of the file that `prune` would write, without writing it."""
    contents = checked_contents(model, plan)
    layout = lay_out(model, contents)
    if options is None:
        return layout.size_bytes
    with header_only(layout) as hollow:
        renamed = imatrix.renamed(contents.names) if imatrix else None
        return requantized_size(hollow, options, renamed)


@contextmanager
def header_only(layout: Layout) -> Iterator[Model]:
    """The file as a quantizer's dry run needs it: all of the header, holes instead of the data."""
    with tempfile.TemporaryDirectory(prefix="ggprune-") as folder:
        hollow = Path(folder) / "header-only.gguf"
        with disk_errors(hollow), hollow.open("wb") as file:
            file.write(layout.header)
            file.truncate(layout.size_bytes)
        yield open_model(hollow)


def requantized_size(model: Model, options: QuantizeOptions, imatrix: Imatrix | None) -> int:
    """Exact bytes of the file that `requantize` would write, without writing it."""
    check_quantizable(model, imatrix)
    outcome = isolated(dry_run, model.path, model.tensors, options, imatrix)
    return file_size(model, outcome, imatrix)


def check_quantizable(model: Model, imatrix: Imatrix | None) -> None:
    """Raises LlamaError if the quantizer would garble the file, DataError for a strange imatrix."""
    if model.alignment != QUANTIZER_ALIGNMENT:
        raise LlamaError(
            f"{model.path}: llama.cpp's quantizer cannot write general.alignment = "
            f"{model.alignment}, only {QUANTIZER_ALIGNMENT}"
        )
    if imatrix is not None and not any(t.name in imatrix.entries for t in model.tensors):
        raise DataError(f"{imatrix.path}: has no entry for any tensor of {model.path}")


def file_size(model: Model, outcome: DryRun, imatrix: Imatrix | None) -> int:
    """Bytes of the whole file that a dry run has announced the tensors of."""
    added = {key: scalar(ValueType.UINT32, 0) for key in QUANTIZER_NUMBERS}
    if imatrix is not None:
        added |= {key: _placeholder(value) for key, value in imatrix_metadata(imatrix).items()}
    return size_with(model, added, outcome.tensor_bytes)


def _placeholder(value: str | int) -> Value:
    return string(value) if isinstance(value, str) else scalar(ValueType.UINT32, value)


def quantize_into(
    source: Model,
    target: PendingFile,
    options: QuantizeOptions,
    imatrix: Imatrix | None,
    bars: Bars,
) -> None:
    """Quantize in a child process and check that nothing but types changed."""
    check_quantizable(source, imatrix)
    bar = bars(f"quantize to {options.type}")
    with target.named():
        isolated(quantize, source.path, target.path, options, imatrix, bar)
        verify_requantized(source, target.path)


def publish(pending: Sequence[PendingFile], *, force: bool, check_load: bool) -> Written:
    """Let llama.cpp load the files and decode, then give them their names."""
    if check_load:
        with contextlib.ExitStack() as stack:
            for file in pending:
                stack.enter_context(file.named())
            _check_loads(pending)
    size_bytes = sum(file.path.stat().st_size for file in pending)
    for i, file in enumerate(pending):
        try:
            file.commit(force=force)
        except BaseException:  # all shards or none
            for before in pending[:i]:
                before.target.unlink(missing_ok=True)
            raise
    return Written(tuple(file.target for file in pending), size_bytes)


def _check_loads(pending: Sequence[PendingFile]) -> None:
    try:
        isolated(check_loads, tuple(file.path for file in pending))
    except LlamaAbortError as e:
        raise LlamaAbortError(
            f"{pending[0].target}: not kept: every byte is as planned, but llama.cpp fails with "
            f"it: {e} (--no-verify skips this check)"
        ) from e


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn what the operating system says while writing into an OutputError."""
    try:
        yield
    except OSError as e:
        what = "the disk is full" if e.errno == errno.ENOSPC else e.strerror
        raise OutputError(f"{target}: cannot be written: {what}; nothing was kept") from e


def _write(
    contents: Contents, layouts: Sequence[Layout], targets: Sequence[PendingFile], bars: Bars
) -> Model:
    """Write and prove: the structure as soon as the headers stand, each tensor behind its copy."""
    total = sum(tensor.size_bytes for tensor in contents.tensors)
    with contextlib.ExitStack() as stack:
        for layout, target in zip(layouts, targets, strict=True):
            stack.enter_context(target.named())
            write_header(layout, target.fd)
        written = open_shards([target.path for target in targets])
        verify_structure(contents, written)
        comparison = stack.enter_context(ByteComparison(written))
        fds = [target.fd for target in targets]
        for tensor in write_tensors(layouts, fds, _counter(bars("copy"), total)):
            comparison.add(tensor)
        comparison.finish()
    return written


def _counter(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Steps in, sums out."""
    done = 0

    def add(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total)

    return add
