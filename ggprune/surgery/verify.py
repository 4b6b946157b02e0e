"""Proves that a written file is what the plan says, by reading it back as any reader would.

The file is opened anew and compared with the source: names, types, shapes, every metadata value,
every byte of every kept tensor. Whether llama.cpp can load it is for `runtime` to prove.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ggprune.errors import VerificationError
from ggprune.files.copy import Progress
from ggprune.model import Model, Tensor, Value, open_model
from ggprune.surgery.contents import Contents, OutTensor, pruned_contents
from ggprune.surgery.edits import edited_blocks, is_edited
from ggprune.surgery.plan import PrunePlan

# What llama_model_quantize sets or llama-quantize asks it to set.
QUANTIZER_KEYS = (
    "general.quantization_version",
    "general.file_type",
    "quantize.imatrix.file",
    "quantize.imatrix.dataset",
    "quantize.imatrix.entries_count",
    "quantize.imatrix.chunks_count",
)
BLOCK_BYTES = 4 << 20
N_THREAD = 2


def verify(model: Model, plan: PrunePlan, path: Path, progress: Progress | None = None) -> Model:
    """Compare the file at `path` with what `plan` makes of `model`; returns it opened.

    Raises VerificationError at the first difference, FormatError if it is not even a GGUF.
    """
    result, contents = open_model(path), pruned_contents(model, plan)
    verify_structure(contents, result)
    with ByteComparison(result) as comparison:
        for tensor in contents.tensors:
            comparison.add(tensor)
        comparison.finish(progress)
    return result


def verify_structure(contents: Contents, result: Model) -> None:
    """Everything but the tensors' bytes, and that every layer has tensors."""
    want = [(t.name, t.type, t.shape) for t in contents.tensors]
    have = [(t.name, t.type, t.shape) for t in result.tensors]
    if want != have:
        odd = next(w for w, h in zip(want, [*have, None], strict=False) if w != h)
        raise VerificationError(f"{result.path}: tensor {odd[0]} is not as planned")
    for key in {*contents.metadata, *result.metadata}:
        if contents.metadata.get(key) != result.metadata.get(key):
            raise VerificationError(f"{result.path}: metadata value {key} is not as planned")


def verify_requantized(
    source: Model, path: Path, types: Mapping[str, str], added: Mapping[str, Value]
) -> Model:
    """Check that a quantizer made what was announced and changed nothing else; returns it opened.

    `types` are names of types by tensor, `added` metadata values that it was told to write. Raises
    VerificationError at the first difference.
    """
    result = open_model(path)
    want = {t.name: (t.shape, types[t.name]) for t in source.tensors}
    have = {t.name: (t.shape, t.type.name) for t in result.tensors}
    if want != have:
        odd = sorted(want.items() ^ have.items())[0][0]
        raise VerificationError(f"{path}: tensor {odd} is missing, or has another shape or type")
    kept = {k: v for k, v in source.metadata.items() if k not in QUANTIZER_KEYS}
    for key, value in {**kept, **added}.items():
        if result.metadata.get(key) != value:
            raise VerificationError(f"{path}: metadata value {key} was changed by the quantizer")
    return result


class ByteComparison:
    """Compares kept tensors with their sources in the background, while more are being written.

    What has just been written is still in the page cache, so models larger than the memory are not
    read from the disk a second time. Plain reads instead of maps: the pages read do not count as
    this process's memory.
    """

    def __init__(self, result: Model) -> None:
        self.path = result.path
        self.written = {tensor.name: tensor for tensor in result.tensors}
        self.stack = contextlib.ExitStack()
        self.pool = ThreadPoolExecutor(N_THREAD)
        self.pending: list[tuple[Tensor, Future[bool]]] = []
        self.fds: dict[Path, int] = {}

    def __enter__(self) -> ByteComparison:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.stack.close()

    def add(self, tensor: OutTensor) -> None:
        """Compare the written tensor with what it was made of, soon."""
        written = self.written[tensor.name]
        source = self._fd(tensor.source.path) if tensor.source is not None else -1
        fds = source, self._fd(written.path)
        equal = _equal_edited if is_edited(tensor) else _equal
        self.pending.append((written, self.pool.submit(equal, *fds, tensor, written)))

    def finish(self, progress: Progress | None = None) -> None:
        """Wait for all. Raises VerificationError for the first tensor that differs."""
        for tensor, equal in self.pending:
            if not equal.result():
                raise VerificationError(f"{self.path}: bytes of {tensor.name} differ")
            if progress is not None:
                progress(tensor.size_bytes)

    def _fd(self, path: Path) -> int:
        if path not in self.fds:
            self.fds[path] = os.open(path, os.O_RDONLY)
            self.stack.callback(os.close, self.fds[path])
        return self.fds[path]


def _equal(source: int, fd: int, tensor: OutTensor, written: Tensor) -> bool:
    start_of = tensor.source.offset if tensor.source is not None else 0
    return all(
        os.pread(source, n, start_of + start) == os.pread(fd, n, written.offset + start)
        for start, n in _blocks(tensor.size_bytes)
    )


def _equal_edited(source: int, fd: int, tensor: OutTensor, written: Tensor) -> bool:
    """Make the bytes once more, and compare them with what the file holds."""
    offset = written.offset
    for block in edited_blocks(tensor, source):
        if os.pread(fd, len(block), offset) != block:
            return False
        offset += len(block)
    return offset == written.offset + written.size_bytes


def _blocks(size_bytes: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size_bytes, BLOCK_BYTES):
        yield start, min(BLOCK_BYTES, size_bytes - start)
