"""Writing files that appear under their names only when everything about them has been proved.

Whatever fails, there is nothing to clean up. What is written is for the jobs to say.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggprune.errors import LlamaAbortError
from ggprune.files.outputs import check_output
from ggprune.files.pending import PendingFile, disk_errors
from ggprune.model import Model, open_model
from ggprune.model.model import open_shards
from ggprune.runtime.isolate import isolated
from ggprune.runtime.loadcheck import check_loads
from ggprune.surgery import Layout
from ggprune.surgery.contents import Contents
from ggprune.surgery.layout import Split, lay_out_shards, shard_names
from ggprune.surgery.rewrite import write_header, write_tensors
from ggprune.surgery.verify import ByteComparison, verify_structure

Progress = Callable[[int, int], object]  # done, total
Bars = Callable[[str], Progress | None]  # a progress report for a step of that name


def no_bars(_: str) -> Progress | None:
    return None


@dataclass(frozen=True)
class OutputFiles:
    """Files that were written, verified and published: one, or the shards of a split model."""

    paths: tuple[Path, ...]
    size_bytes: int
    notes: tuple[str, ...] = ()  # what a user must know about the result


@contextmanager
def header_only(layout: Layout) -> Iterator[Model]:
    """The file as a quantizer's dry run needs it: all of the header, holes instead of the data."""
    with tempfile.TemporaryDirectory(prefix="ggprune-") as folder:
        hollow = Path(folder) / "header-only.gguf"
        with disk_errors(hollow), hollow.open("wb") as file:
            file.write(layout.header)
            file.truncate(layout.size_bytes)
        yield open_model(hollow)


def write_published(
    model: Model,
    contents: Contents,
    inputs: Sequence[Path],
    out: Path,
    *,
    split: Split | None,
    force: bool,
    check_load: bool,
    bars: Bars,
) -> OutputFiles:
    """Write `contents` of `model` as one file or as shards; `inputs` survive whatever happens."""
    layouts = lay_out_shards(model, contents, split)
    targets = shard_names(out, len(layouts))
    size_bytes = sum(layout.size_bytes for layout in layouts)
    for target in targets:
        check_output(target, inputs, force=force, size_bytes=size_bytes)
    with disk_errors(out), contextlib.ExitStack() as stack:
        pending = [stack.enter_context(PendingFile(target)) for target in targets]
        write_proved(contents, layouts, pending, bars)
        return publish(pending, force=force, check_load=check_load)


def publish(pending: Sequence[PendingFile], *, force: bool, check_load: bool) -> OutputFiles:
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
    return OutputFiles(tuple(file.target for file in pending), size_bytes)


def _check_loads(pending: Sequence[PendingFile]) -> None:
    try:
        isolated(check_loads, tuple(file.path for file in pending))
    except LlamaAbortError as e:
        raise LlamaAbortError(
            f"{pending[0].target}: not kept: every byte is as planned, but llama.cpp fails with "
            f"it: {e} (--no-verify skips this check)"
        ) from e


def write_proved(
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
