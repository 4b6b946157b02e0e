"""Where every byte of a GGUF file lies, before anything is written: exact sizes for free.

Also how a model is divided into shards, in the manner of llama-gguf-split.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.errors import UsageError
from ggprune.model.gguf import ALIGNMENT, MAGIC
from ggprune.model.metadata import ValueType, encode_text, scalar, string
from ggprune.model.model import (
    SHARD,
    SPLIT_COUNT,
    SPLIT_NO,
    SPLIT_SET,
    SPLIT_TENSORS,
    Model,
    shard_name,
)
from ggprune.surgery.contents import Contents, OutTensor

MAX_SHARDS = 99_999  # five digits in the file names
NO_SET = 64 * "0"  # as long as the fingerprint that takes its place when all is written


@dataclass(frozen=True)
class Placement:
    """A tensor of the result and where its bytes start in the new file."""

    tensor: OutTensor
    offset: int


@dataclass(frozen=True)
class Layout:
    """A whole GGUF file except for the tensors' bytes."""

    header: bytes  # up to the first tensor, padding included
    placements: tuple[Placement, ...]
    size_bytes: int
    set_offset: int | None = None  # in the header: where a shard says which set it belongs to


@dataclass(frozen=True)
class Split:
    """How to divide a model into shards: by a limit, or a new shard wherever `groups` changes."""

    max_bytes: int | None = None  # of tensor data
    max_tensors: int | None = None
    groups: Mapping[str, int] | None = None  # by tensor name of the result


def split_as(model: Model, contents: Contents) -> Split:
    """The division of the input's files. Shards that lose all their tensors vanish."""
    number = {file.path: i for i, file in enumerate(model.files)}
    return Split(groups={new: number[model.by_name[old].path]
                         for old, new in contents.names.items()})  # fmt: skip


def in_groups(contents: Contents, split: Split) -> Contents:
    """The tensors in the order of their groups: a quantizer may have stored them in another one."""
    groups = split.groups or {}
    ordered = sorted(contents.tensors, key=lambda t: groups.get(t.name, len(groups)))
    return replace(contents, tensors=tuple(ordered))


def lay_out_shards(model: Model, contents: Contents, split: Split | None) -> tuple[Layout, ...]:
    """One layout per file: a single one without `split`, or where one shard holds all."""
    groups = list(_divide(contents.tensors, split)) if split is not None else []
    if len(groups) > MAX_SHARDS:
        raise UsageError(f"{len(groups)} shards: at most {MAX_SHARDS} can be named")
    if len(groups) <= 1:
        return (lay_out(model, contents),)
    return tuple(
        lay_out(model, _shard(contents, group, i, len(groups))) for i, group in enumerate(groups)
    )


def shard_names(path: Path, n: int) -> tuple[Path, ...]:
    """`out.gguf` -> `out-00001-of-00003.gguf`...; a single file keeps its name.

    A name that is a shard's already stands for the set.
    """
    if n == 1:
        return (path,)
    match = SHARD.fullmatch(path.name)
    stem = path.stem if path.suffix.lower() == ".gguf" else path.name
    stem = match["stem"] if match is not None else stem
    return tuple(path.with_name(shard_name(stem, i, n)) for i in range(n))


def lay_out(model: Model, contents: Contents) -> Layout:
    """A file with these contents, padded with zeros, in the version of `model`."""
    relative, offsets = 0, []
    for tensor in contents.tensors:
        offsets.append(relative)
        relative = _pad(relative + tensor.size_bytes, contents.alignment)
    header, set_offset = _header(model, contents, offsets)
    placements = tuple(
        Placement(tensor, len(header) + offset)
        for tensor, offset in zip(contents.tensors, offsets, strict=True)
    )
    return Layout(header, placements, len(header) + relative, set_offset)


def _divide(tensors: Sequence[OutTensor], split: Split) -> Iterator[list[OutTensor]]:
    """Tensors of each shard, in order."""
    group: list[OutTensor] = []
    n_byte = 0
    for tensor in tensors:
        if group and _is_full(group, n_byte, tensor, split):
            yield group
            group, n_byte = [], 0
        group.append(tensor)
        n_byte += tensor.size_bytes
    yield group


def _is_full(group: list[OutTensor], n_byte: int, tensor: OutTensor, split: Split) -> bool:
    groups = split.groups or {}
    before = groups.get(group[0].name)
    return (
        (split.max_bytes is not None and n_byte + tensor.size_bytes > split.max_bytes)
        or (split.max_tensors is not None and len(group) >= split.max_tensors)
        or (before is not None and groups.get(tensor.name, before) != before)
    )


def _shard(contents: Contents, group: list[OutTensor], i: int, n: int) -> Contents:
    """All metadata is in the first shard, but for what a reader needs to find the tensors.

    The three keys `split.*` and their types are llama-gguf-split's.
    """
    keys = {
        SPLIT_NO: scalar(ValueType.UINT16, i),
        SPLIT_COUNT: scalar(ValueType.UINT16, n),
        SPLIT_TENSORS: scalar(ValueType.INT32, len(contents.tensors)),
        SPLIT_SET: string(NO_SET),
    }
    if ALIGNMENT in contents.metadata:
        keys[ALIGNMENT] = contents.metadata[ALIGNMENT]
    metadata = {**contents.metadata, **keys} if i == 0 else keys
    return Contents(metadata, tuple(group), contents.names)


def _header(model: Model, contents: Contents, offsets: Sequence[int]) -> tuple[bytes, int | None]:
    """The header, and where in it the set is named, if it is."""
    metadata, tensors, set_offset = contents.metadata, contents.tensors, None
    parts = [struct.pack("<4sIQQ", MAGIC, model.files[0].version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), struct.pack("<I", value.type), bytes(value.raw)]
        if key == SPLIT_SET:
            set_offset = sum(map(len, parts)) - len(NO_SET)
    for tensor, offset in zip(tensors, offsets, strict=True):
        n_dim = len(tensor.shape)
        parts += [_text(tensor.name), struct.pack(f"<I{n_dim}Q", n_dim, *tensor.shape)]
        parts.append(struct.pack("<IQ", tensor.type.id, offset))
    header = b"".join(parts)
    return header.ljust(_pad(len(header), contents.alignment), b"\0"), set_offset


def _text(text: str) -> bytes:
    data = encode_text(text)
    return struct.pack("<Q", len(data)) + data


def _pad(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
