"""One GGUF file: header, metadata, where each tensor lies; read through a memory map, then closed.

Follows the format's description (ggml/docs/gguf.md) and the checks of llama.cpp's own reader
(ggml/src/gguf.cpp). Opening costs a walk over the metadata and no memory for the tensors. Knows
nothing of layers or of other files of the same model.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggprune.errors import FormatError
from ggprune.model.fields import Fields
from ggprune.model.metadata import U32, U64, Value, ValueType, decode_text, skip_value
from ggprune.model.types import TENSOR_TYPES, TensorType, describe_unknown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_STRING_BYTES = 1 << 30  # as in gguf.cpp

_HEADER = struct.Struct("<4sIQQ")  # magic, version, tensor count, metadata count


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor and where its bytes are: `path[offset : offset + size_bytes]`."""

    name: str
    type: TensorType
    shape: tuple[int, ...]  # ggml order: row length first
    path: Path
    offset: int
    size_bytes: int

    @property
    def n_element(self) -> int:
        return math.prod(self.shape)


def plain_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without dimensions of 1 at the end, which llama.cpp does not write (`ggml_n_dims`)."""
    n_dim = max((i + 1 for i, n in enumerate(shape) if n != 1), default=1)
    return shape[:n_dim]


@dataclass(frozen=True, kw_only=True)
class GGUFFile:
    """One file: its metadata in file order and its tensors in file order."""

    path: Path
    version: int
    alignment: int
    metadata: dict[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int
    size_bytes: int

    @property
    def fields(self) -> Fields:
        return Fields(self.path, self.metadata)


def read_gguf(path: Path) -> GGUFFile:
    """Read the header of a GGUF v2 or v3 file. Raises FormatError with the reason if it is none.

    Nothing of the file stays open or mapped: Windows could not replace it.
    """
    try:
        with _mapped(path) as view:
            return _Parser(path, view).parse()
    except (struct.error, OverflowError) as e:
        raise FormatError(f"{path}: truncated: the header ends behind the file") from e


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    try:
        if path.exists() and not path.is_file():
            what = "a folder, not a GGUF file" if path.is_dir() else "not a regular file"
            raise FormatError(f"{path}: {what}")
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise FormatError(f"{path}: empty file, not a GGUF")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise FormatError(f"{path}: cannot be opened: {e.strerror}") from e
    with mapped, memoryview(mapped) as view:
        yield view


# Name, type, shape, and the offset behind the start of the data.
TensorInfo = tuple[str, TensorType, tuple[int, ...], int]


class _Parser:
    """A cursor over the file's bytes; every method reads one thing and moves on."""

    def __init__(self, path: Path, view: memoryview) -> None:
        self.path = path
        self.view = view
        self.pos = 0

    def fail(self, reason: str) -> FormatError:
        return FormatError(f"{self.path}: {reason}")

    def parse(self) -> GGUFFile:
        version, n_tensor, n_kv = self.header()
        metadata = self.metadata(n_kv)
        alignment = self.alignment(metadata)
        infos = [self.tensor_info() for _ in range(self.plausible(n_tensor, "tensors"))]
        data_offset = -(-self.pos // alignment) * alignment
        tensors = self.tensors(infos, data_offset, alignment)
        size = len(self.view)
        return GGUFFile(
            path=self.path, version=version, alignment=alignment, metadata=metadata,
            tensors=tensors, data_offset=data_offset, size_bytes=size,
        )  # fmt: skip

    def header(self) -> tuple[int, int, int]:
        start = bytes(self.view[:4])
        if start != MAGIC:
            raise self.fail(f"not a GGUF file: it starts with {start!r}, expected {MAGIC!r}")
        _, version, n_tensor, n_kv = _HEADER.unpack_from(self.view)
        self.pos = _HEADER.size
        if version == 1:
            raise self.fail("GGUF version 1 is not supported; convert the model again")
        if version and version & 0xFFFF == 0:
            raise self.fail("a big-endian GGUF; convert it with gguf-convert-endian first")
        if version not in VERSIONS:
            raise self.fail(f"GGUF version {version} is not supported (2 and 3 are)")
        return version, n_tensor, n_kv

    def plausible(self, count: int, what: str) -> int:
        if count > len(self.view):  # each takes more than a byte
            raise self.fail(f"damaged header: {count} {what} in a file of {len(self.view)} bytes")
        return count

    def text(self) -> str:
        (n,) = U64.unpack_from(self.view, self.pos)
        end = self.pos + 8 + n
        if n > MAX_STRING_BYTES or end > len(self.view):
            raise self.fail(f"truncated or damaged: a string of {n} bytes at offset {self.pos}")
        start, self.pos = self.pos + 8, end
        return decode_text(self.view[start:end])

    def number(self, layout: struct.Struct) -> int:
        (n,) = layout.unpack_from(self.view, self.pos)
        self.pos += layout.size
        return int(n)

    def metadata(self, n_kv: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(self.plausible(n_kv, "metadata values")):
            key = self.text()
            if key in metadata:
                raise self.fail(f"metadata key {key} appears twice")
            metadata[key] = self.value(key)
        return metadata

    def value(self, key: str) -> Value:
        value_type = self.number(U32)
        try:
            end = skip_value(value_type, self.view, self.pos)
        except ValueError as e:
            raise self.fail(f"metadata value {key}: {e}") from e
        if end > len(self.view):
            raise self.fail(f"truncated: metadata value {key} ends behind the file")
        start, self.pos = self.pos, end
        return Value(ValueType(value_type), bytes(self.view[start:end]))

    def alignment(self, metadata: dict[str, Value]) -> int:
        value = metadata.get(ALIGNMENT)
        if value is None:
            return DEFAULT_ALIGNMENT
        n = value.decode() if value.type == ValueType.UINT32 else 0
        if n == 0 or n & (n - 1):
            raise self.fail(f"{ALIGNMENT} is not a power of two of type u32")
        return int(n)

    def tensor_info(self) -> TensorInfo:
        name = self.text()
        n_dim = self.number(U32)
        if not 1 <= n_dim <= MAX_DIMS:
            raise self.fail(f"tensor {name} has {n_dim} dimensions, expected 1 to {MAX_DIMS}")
        shape = tuple(self.number(U64) for _ in range(n_dim))
        type_id = self.number(U32)
        if type_id not in TENSOR_TYPES:
            raise self.fail(f"tensor {name} has type {type_id}, {describe_unknown(type_id)}")
        if 0 in shape:
            raise self.fail(f"tensor {name} has shape {shape}")
        return name, TENSOR_TYPES[type_id], shape, self.number(U64)

    def tensors(
        self, infos: list[TensorInfo], data_offset: int, alignment: int
    ) -> tuple[Tensor, ...]:
        tensors: dict[str, Tensor] = {}
        for name, tensor_type, shape, relative in infos:
            if name in tensors:
                raise self.fail(f"tensor {name} appears twice")
            if relative % alignment:
                raise self.fail(f"tensor {name} is at {relative}, not aligned to {alignment}")
            try:
                size = tensor_type.size_bytes(shape)
            except FormatError as e:
                raise self.fail(f"tensor {name}: {e}") from e
            offset = data_offset + relative
            tensors[name] = Tensor(
                name=name, type=tensor_type, shape=shape, path=self.path, offset=offset,
                size_bytes=size,
            )  # fmt: skip
        end, before = 0, ""
        for tensor in sorted(tensors.values(), key=lambda t: t.offset):
            if tensor.offset < end:
                raise self.fail(f"tensors {before} and {tensor.name} overlap")
            end, before = tensor.offset + tensor.size_bytes, tensor.name
            if end > len(self.view):
                where = f"ends at byte {end}, the file has {len(self.view)}"
                raise self.fail(f"truncated: tensor {tensor.name} {where}")
        return tuple(tensors.values())
