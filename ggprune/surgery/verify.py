"""Proves that a written file is what the plan says, by reading it back as any reader would.

The file is opened anew and compared with the source: names, types, shapes, every metadata value,
every byte of every kept tensor. Whether llama.cpp can load it is for `runtime` to prove.
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from ggprune.errors import VerificationError
from ggprune.files.system import open_fd, read_at
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model
from ggprune.surgery.contents import Contents, OutTensor
from ggprune.surgery.edits import edited_blocks, is_edited

BLOCK_BYTES = 4 << 20
N_THREAD = 2


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
        self.pending: list[tuple[Tensor, Future[str | None]]] = []
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

    def finish(self) -> dict[str, str]:
        """Wait for all; their digests by name, as `files.digests` makes them.

        Raises VerificationError for the first tensor that differs.
        """
        made = {}
        for tensor, equal in self.pending:
            digest = equal.result()
            if digest is None:
                raise VerificationError(f"{self.path}: bytes of {tensor.name} differ")
            made[tensor.name] = digest
        return made

    def _fd(self, path: Path) -> int:
        if path not in self.fds:
            self.fds[path] = open_fd(path, os.O_RDONLY)
            self.stack.callback(os.close, self.fds[path])
        return self.fds[path]


def _equal(source: int, fd: int, tensor: OutTensor, written: Tensor) -> str | None:
    """The digest of bytes that are the same; None if they are not."""
    start_of, digest = tensor.source.offset if tensor.source is not None else 0, blake3()
    for start in range(0, tensor.size_bytes, BLOCK_BYTES):
        n = min(BLOCK_BYTES, tensor.size_bytes - start)
        block = read_at(fd, n, written.offset + start)
        if read_at(source, n, start_of + start) != block:
            return None
        digest.update(block)
    return digest.hexdigest()


def _equal_edited(source: int, fd: int, tensor: OutTensor, written: Tensor) -> str | None:
    """Make the bytes once more, and compare them with what the file holds."""
    offset, digest = written.offset, blake3()
    for block in edited_blocks(tensor, source):
        if read_at(fd, len(block), offset) != block:
            return None
        digest.update(block)
        offset += len(block)
    return digest.hexdigest() if offset == written.offset + written.size_bytes else None
