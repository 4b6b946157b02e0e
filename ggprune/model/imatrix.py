"""Importance matrices: mean squared activations per tensor, in both of llama.cpp's formats.

The formats are those of llama-imatrix (GGUF with `.in_sum2` and `.counts` tensors, and the legacy
.dat); values are normalised as llama-quantize does before it uses them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError, FormatError
from ggprune.files.reading import read_bytes
from ggprune.model.gguf import MAGIC, Tensor
from ggprune.model.model import open_model

SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, kw_only=True)
class Imatrix:
    """Importance of every input column of the matrices it was measured for, by tensor name."""

    path: Path
    entries: Mapping[str, NDArray[np.float32]]  # (n_expert * n_column,)
    dataset: str
    n_chunk: int
    # Tokens behind each expert's part of an entry, (n_expert,), or one number for all of it. An
    # expert with none was never chosen; its part of the entry says nothing. .dat files count calls.
    counts: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()  # tensors that are to do without an entry

    def renamed(self, names: Mapping[str, str]) -> Imatrix:
        """The entries of tensors that remain, under their new names (old name -> new name)."""
        kept = {new: self.entries[old] for old, new in names.items() if old in self.entries}
        counts = {new: self.counts[old] for old, new in names.items() if old in self.counts}
        left_out = frozenset(names[old] for old in self.left_out if old in names)
        return replace(self, entries=kept, counts=counts, left_out=left_out)


def read_imatrix(path: Path) -> Imatrix:
    """Read an imatrix. Raises DataError if the file is not one."""
    read = _read_gguf if read_bytes(path, len(MAGIC)) == MAGIC else _read_legacy
    try:
        return read(path)
    except (FormatError, struct.error, ValueError, TypeError) as e:
        raise DataError(f"{path}: not an importance matrix: {e}") from e


def _read_gguf(path: Path) -> Imatrix:
    model = open_model(path)
    tensors = {tensor.name: tensor for tensor in model.tensors}
    entries, all_counts = {}, {}
    for name in (n.removesuffix(SUMS) for n in tensors if n.endswith(SUMS)):
        if name + COUNTS not in tensors:
            raise FormatError(f"{name} has sums but no counts")
        counts = _values(tensors[name + COUNTS])  # (n_expert,)
        sums = _values(tensors[name + SUMS]).reshape(len(counts), -1)
        seen = counts[:, None] > 0
        mean = np.divide(sums, counts[:, None], out=np.ones_like(sums), where=seen)
        entries[name], all_counts[name] = mean.ravel(), counts
    if not entries:
        raise FormatError("it has no .in_sum2 tensors")
    keys = ("imatrix.datasets", "imatrix.chunk_count")
    names, n_chunk = (model.metadata[k].decode() if k in model.metadata else None for k in keys)
    return Imatrix(
        path=path, entries=entries, dataset=str(names[0]) if names else "",
        n_chunk=int(n_chunk or 0), counts=all_counts,
    )  # fmt: skip


def _values(tensor: Tensor) -> NDArray[np.float32]:
    if tensor.type.name != "F32":
        raise FormatError(f"{tensor.name} is {tensor.type.name}, expected F32")
    return np.fromfile(tensor.path, np.float32, tensor.n_element, offset=tensor.offset)


def _read_legacy(path: Path) -> Imatrix:
    entries, tail = read_legacy_entries(path)
    means = {e.name: e.values / np.float32(e.n_call) if e.n_call > 0 else e.values for e in entries}
    counts = {e.name: np.array([max(e.n_call, 0)], np.float32) for e in entries}
    n_chunk, dataset = 0, ""  # optional at the end of the file
    if len(tail) >= 8:
        n_chunk, length = struct.unpack_from("<ii", tail)
        dataset = tail[8 : 8 + length].decode("utf-8", "replace")
    return Imatrix(path=path, entries=means, dataset=dataset, n_chunk=n_chunk, counts=counts)


@dataclass(frozen=True)
class LegacyEntry:
    """One tensor of a .dat file: sums over `n_call` calls."""

    name: str
    n_call: int
    values: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        name = self.name.encode()
        head = struct.pack(f"<i{len(name)}sii", len(name), name, self.n_call, len(self.values))
        return head + self.values.astype("<f4").tobytes()


def read_legacy_entries(path: Path) -> tuple[list[LegacyEntry], bytes]:
    """Entries of a .dat file, and the bytes behind them.

    Raises FormatError, struct.error or ValueError if it is not one.
    """
    raw, pos = read_bytes(path), 4
    (n_entry,) = struct.unpack_from("<i", raw)
    entries = []
    for _ in range(n_entry):
        (length,) = struct.unpack_from("<i", raw, pos)
        name = raw[pos + 4 : pos + 4 + length].decode()
        pos += 4 + length
        n_call, n_value = struct.unpack_from("<ii", raw, pos)
        if n_value < 1:
            raise FormatError(f"entry {name!r} has {n_value} values")
        values = np.frombuffer(raw, "<f4", n_value, pos + 8).copy()
        entries.append(LegacyEntry(name, n_call, values))
        pos += 8 + 4 * n_value
    if not entries:
        raise FormatError("it has no entries")
    return entries, raw[pos:]
