"""Writes files as they were laid out, and proves them: a header, then bytes, mostly untouched."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from ggprune.errors import FormatError
from ggprune.files.copy import copy_range, start_writeback
from ggprune.files.outputs import PendingFile
from ggprune.files.system import open_fd, write_at
from ggprune.model.fingerprint import joined
from ggprune.model.model import Model, open_shards
from ggprune.progress import SILENT, Progress
from ggprune.surgery.contents import Contents, OutTensor
from ggprune.surgery.edits import edited_blocks, is_edited
from ggprune.surgery.layout import Layout
from ggprune.surgery.verify import ByteComparison, verify_structure


def write_proved(
    contents: Contents,
    layouts: Sequence[Layout],
    targets: Sequence[PendingFile],
    progress: Progress = SILENT,
) -> Model:
    """Write and prove: the structure as soon as the headers stand, each tensor behind its copy.

    At the end every shard is told the fingerprint of the whole, to be known among others by it.
    Returns what was written. Raises VerificationError at the first difference, OSError when the
    disk is full.
    """
    with contextlib.ExitStack() as stack:
        for layout, target in zip(layouts, targets, strict=True):
            stack.enter_context(target.named())
            write_header(layout, target.fd)
        written = open_shards([target.path for target in targets])
        verify_structure(contents, written)
        comparison = stack.enter_context(ByteComparison(written))
        writing = write_tensors(layouts, [target.fd for target in targets], progress)
        for tensor in stack.enter_context(contextlib.closing(writing)):
            comparison.add(tensor)
        digests = comparison.finish()
        if len(layouts) > 1:
            belonging = joined(written.metadata, written.tensors, digests)
            for layout, target in zip(layouts, targets, strict=True):
                assert layout.set_offset is not None
                write_at(target.fd, belonging.encode(), layout.set_offset)
            written = open_shards([target.path for target in targets])
    return written


def write_header(layout: Layout, fd: int) -> None:
    """Everything but the tensors' bytes; the padding between them is zeros that nobody writes."""
    os.ftruncate(fd, layout.size_bytes)
    write_at(fd, layout.header, 0)


def write_tensors(
    layouts: Sequence[Layout], fds: Sequence[int], progress: Progress
) -> Generator[OutTensor, None, None]:
    """Write tensor after tensor to the layouts' files; yields each when all its bytes are there.

    `progress` is told of bytes.
    """
    places = [(place, fd) for layout, fd in zip(layouts, fds, strict=True)
              for place in layout.placements]  # fmt: skip
    done, total = 0, sum(place.tensor.size_bytes for place, _ in places)
    with contextlib.ExitStack() as stack:
        sources: dict[Path | None, int] = {None: -1}
        for place, fd in places:
            path = place.tensor.source.path if place.tensor.source else None
            if path is not None and path not in sources:
                sources[path] = open_fd(path, os.O_RDONLY)
                stack.callback(os.close, sources[path])
            try:
                for n_byte in _write_tensor(place.tensor, sources[path], fd, place.offset):
                    done += n_byte
                    progress.step(done, total)
            except EOFError as e:
                raise FormatError(f"{path}: {e}") from e
            yield place.tensor


def _write_tensor(tensor: OutTensor, source: int, fd: int, offset: int) -> Iterator[int]:
    """Yields the bytes of each step."""
    if tensor.source is not None and not is_edited(tensor):
        yield from copy_range(source, tensor.source.offset, fd, offset, tensor.size_bytes)
        return
    for block in edited_blocks(tensor, source):
        write_at(fd, block, offset)
        start_writeback(fd, offset, len(block))
        offset += len(block)
        yield len(block)
