"""A file to be written: a model, what leaves it, what it is stored as, and where it goes.

Contents -> what the quantizer would make of them -> room for it -> written and proved -> quantized
-> published. Requantizing is the same job with nothing to prune. The output appears under its name
only when everything has been proved; whatever fails, there is nothing to clean up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from ggprune.errors import GGPruneError
from ggprune.files.outputs import PendingFile, check_output, disk_errors
from ggprune.model.gguf import DEFAULT_ALIGNMENT
from ggprune.model.imatrix import Imatrix
from ggprune.model.model import Model, open_model
from ggprune.pipeline.files import OutputFiles, check_source, header_only, publish
from ggprune.progress import SILENT, Progress
from ggprune.quantize.checks import select_entries
from ggprune.quantize.forecast import (
    Forecast,
    Unpruned,
    forecast,
    quantized_contents,
    unpruned_of,
    verify_quantized,
)
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.quantizer import quantize
from ggprune.runtime.isolate import isolated
from ggprune.surgery.contents import Contents, Replacement, contents_of, unchanged_contents
from ggprune.surgery.layout import Split, in_groups, lay_out, lay_out_shards, shard_names, split_as
from ggprune.surgery.plan import PrunePlan
from ggprune.surgery.rewrite import write_proved

AS_INPUT: Final = "as the input"
Division = Split | Literal["as the input"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A model to be written: without what a plan drops, in another type, or both."""

    model: Model
    out: Path  # shards are named after it
    plan: PrunePlan | None = None  # nothing is dropped
    quantize: QuantizeOptions | None = None  # tensors stay what they are
    imatrix: Imatrix | None = None  # of `model`, for quantizing
    replaced: Replacement | None = None  # all tensors are the model's own
    split: Division | None = None  # one file
    force: bool = False  # replace files that are there; never one of the input
    check_load: bool = True  # let llama.cpp load the result and decode

    @property
    def is_whole(self) -> bool:
        """Does nothing leave the model, is nothing exchanged, or moved for the quantizer?"""
        return (
            (self.plan is None or not self.plan.cut) and self.replaced is None
            and (self.quantize is None or self.model.alignment == DEFAULT_ALIGNMENT)
        )  # fmt: skip


def planned(job: Job) -> OutputFiles:
    """The files that `write` would write, with their exact size; writes nothing.

    Raises what `write` raises before it writes, but for what is wrong with the output.
    """
    return _prepare(job).files()


def write(job: Job, progress: Progress = SILENT, also: Sequence[PendingFile] = ()) -> OutputFiles:
    """Write, prove and publish: all files and those of `also`, or none of them.

    Raises OutputError before any work if the output must not or cannot be written,
    VerificationError or LlamaError if the model makes no sense to llama.cpp or the result is not
    what it should be; then nothing is left behind.
    """
    prepared = _prepare(job)
    _check_room(prepared)
    if job.check_load:
        check_source(job.model, computed=prepared.is_quantized)
    if not prepared.is_quantized:
        writing = _Writing(job, job.model, progress, also)
        done = _write_files(writing, prepared.contents, prepared.split)
        return replace(done, notes=prepared.notes)
    with disk_errors(job.out), PendingFile(job.out) as whole:
        _write_whole(prepared, whole, progress)
        done = _publish_whole(prepared, whole, progress, also)
    return replace(done, notes=prepared.notes)


def write_into(job: Job, target: PendingFile, progress: Progress = SILENT) -> None:
    """Write and prove the job's result as one file, which is not published."""
    _write_whole(_prepare(job), target, progress)


@contextlib.contextmanager
def one_file(model: Model, beside: Path, progress: Progress = SILENT) -> Iterator[Model]:
    """The model in one file: shards are joined for a while, in the folder of `beside`.

    Errors raised in the block name `beside` then.
    """
    if len(model.files) == 1:
        yield model
        return
    with PendingFile(beside) as whole:
        write_into(Job(model=model, out=beside), whole, progress)
        with whole.named():
            yield open_model(whole.path)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A job and what follows from it, before anything is written."""

    job: Job
    contents: Contents  # before they are quantized
    split: Split | None
    imatrix: Imatrix | None = None  # in the names of `contents`
    forecast: Forecast | None = None  # None: nobody asked for quantizing

    @property
    def is_quantized(self) -> bool:
        return self.forecast is not None and self.forecast.types is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the plan are the plan's to tell."""
        told = self.job.plan.notes if self.job.plan is not None else ()
        own = tuple(note for note in self.contents.notes if note not in told)
        return own + (self.forecast.notes if self.forecast is not None else ())

    def files(self) -> OutputFiles:
        contents = self.contents
        if self.forecast is not None:
            contents = quantized_contents(contents, self.forecast)
            contents = in_groups(contents, self.split) if self.split is not None else contents
        layouts = lay_out_shards(self.job.model, contents, self.split)
        size_bytes = sum(layout.size_bytes for layout in layouts)
        return OutputFiles(shard_names(self.job.out, len(layouts)), size_bytes, self.notes)


def _prepare(job: Job) -> _Prepared:
    contents = contents_of(job.model, job.plan)
    if job.replaced is not None:
        contents = job.replaced.apply(contents)
    split = split_as(job.model, contents) if isinstance(job.split, str) else job.split
    if job.quantize is None:
        return _Prepared(job=job, contents=contents, split=split)
    contents = for_quantizer(contents)
    imatrix = select_entries(job.imatrix, job.quantize, job.model)
    unpruned = None
    if job.plan is not None:
        imatrix = contents.followed(imatrix) if imatrix is not None else None
        unpruned = unpruned_of(job.model, job.plan, contents.names)
    expected = None
    if not job.quantize.copies_all:
        expected = _forecast(job, contents, imatrix, unpruned)
    return _Prepared(job=job, contents=contents, split=split, imatrix=imatrix, forecast=expected)


def _forecast(
    job: Job, contents: Contents, imatrix: Imatrix | None, unpruned: Unpruned | None
) -> Forecast:
    """In a child process. Errors speak of the model, not of the file that stands in for it."""
    assert job.quantize is not None
    with stand_in(job, contents) as file:
        try:
            return isolated(forecast, file, job.quantize, imatrix, unpruned)
        except GGPruneError as e:
            raise type(e)(str(e).replace(str(file.path), str(job.model.path))) from e


def for_quantizer(contents: Contents) -> Contents:
    return contents.realigned(DEFAULT_ALIGNMENT, "llama.cpp's quantizer writes no other")


@contextlib.contextmanager
def stand_in(job: Job, contents: Contents) -> Iterator[Model]:
    """The file that is going to be quantized, as far as a dry run looks at it."""
    if job.is_whole:
        yield job.model
        return
    with header_only(lay_out(job.model, contents)) as hollow:
        yield hollow


def _check_room(prepared: _Prepared) -> None:
    """Refuse before any work; a pruned file is there until it has been quantized."""
    job, files, between = prepared.job, prepared.files(), 0
    if prepared.is_quantized and not job.is_whole:
        between = lay_out(job.model, prepared.contents).size_bytes
    _check_outputs(job, files.paths, files.size_bytes + between)


def _check_outputs(job: Job, paths: Sequence[Path], size_bytes: int) -> None:
    inputs = [file.path for file in job.model.files]
    for path in paths:
        check_output(path, inputs, force=job.force, size_bytes=size_bytes)


def _write_whole(prepared: _Prepared, target: PendingFile, progress: Progress) -> None:
    """One file. Requantizing what is pruned takes another one for a while."""
    job, contents = prepared.job, prepared.contents
    if prepared.is_quantized and job.is_whole:
        _quantize(prepared, job.model, target, progress)
        return
    layouts = [lay_out(job.model, contents)]
    if not prepared.is_quantized:
        write_proved(contents, layouts, [target], progress.part("copy"))
        return
    with PendingFile(target.target) as pruned:
        written = write_proved(contents, layouts, [pruned], progress.part("copy"))
        with pruned.named():
            _quantize(prepared, written, target, progress)


def _quantize(prepared: _Prepared, source: Model, target: PendingFile, progress: Progress) -> None:
    """In a child process; then check that what was forecast changed and nothing else."""
    expected = prepared.forecast
    assert expected is not None
    part = progress.part(f"quantize to {expected.options.type}")
    with target.named():
        isolated(quantize, source.path, target.path, expected.options, prepared.imatrix, part)
        verify_quantized(source, target.path, expected)


def _publish_whole(
    prepared: _Prepared, whole: PendingFile, progress: Progress, also: Sequence[PendingFile]
) -> OutputFiles:
    """Publish a finished file, or the shards that it is divided into."""
    job, split = prepared.job, prepared.split
    if split is None:
        return publish(
            [whole], force=job.force, check_load=job.check_load, source=job.model, also=also
        )
    writing = _Writing(job, open_model(whole.path), progress, also)
    return _write_files(writing, in_groups(unchanged_contents(writing.model), split), split)


@dataclass(frozen=True)
class _Writing:
    """What is written of which model, and what appears with it."""

    job: Job
    model: Model
    progress: Progress
    also: Sequence[PendingFile]


def _write_files(writing: _Writing, contents: Contents, split: Split | None) -> OutputFiles:
    """Write `contents`, made of the model, as one file or as shards, and publish them."""
    job, progress = writing.job, writing.progress
    layouts = lay_out_shards(writing.model, contents, split)
    targets = shard_names(job.out, len(layouts))
    _check_outputs(job, targets, sum(layout.size_bytes for layout in layouts))
    with disk_errors(job.out), contextlib.ExitStack() as stack:
        pending = [stack.enter_context(PendingFile(target)) for target in targets]
        write_proved(contents, layouts, pending, progress.part("copy"))
        return publish(
            pending, force=job.force, check_load=job.check_load, source=job.model,
            also=writing.also,
        )  # fmt: skip
