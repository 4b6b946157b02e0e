"""Importance matrices: mean squared activations per tensor, in both of llama.cpp's formats.

The formats are those of llama-imatrix (GGUF with `.in_sum2` and `.counts` tensors, and the legacy
.dat); values are normalised as llama-quantize does before it uses them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ggprune.errors import DataError, FormatError
from ggprune.files.reading import read_bytes
from ggprune.model.gguf import MAGIC, Tensor
from ggprune.model.model import open_model

SUMS, COUNTS = ".in_sum2", ".counts"
NONE: Mapping[str, tuple[int, tuple[int, ...]]] = MappingProxyType({})
T = TypeVar("T", bound=np.generic)


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

    def renamed(
        self, names: Mapping[str, str], experts: Mapping[str, tuple[int, tuple[int, ...]]] = NONE
    ) -> Imatrix:
        """The entries of tensors that remain, under their new names (old name -> new name).

        `experts` are those that stay of how many, by old names, where some leave.
        """
        kept, counts = (
            {
                new: select_parts(values[old], *experts.get(old, (1, (0,))))
                for old, new in names.items()
                if old in values
            }
            for values in (self.entries, self.counts)
        )
        left_out = frozenset(names[old] for old in self.left_out if old in names)
        return replace(self, entries=kept, counts=counts, left_out=left_out)


def select_parts(values: NDArray[T], n_part: int, kept: tuple[int, ...]) -> NDArray[T]:
    """Some of the equal parts that lie one behind the other; one value holds for all of them."""
    if len(values) == 1 or n_part == len(kept):
        return values
    return values.reshape(n_part, -1)[list(kept)].ravel()


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
        counts, sums = _values(tensors[name + COUNTS]), _values(tensors[name + SUMS])
        if len(sums) % len(counts):
            raise FormatError(f"{name} has {len(sums)} sums, not as many for each of its counts")
        all_counts[name] = _checked(name + COUNTS, counts)  # (n_expert,)
        entries[name] = _checked(name + SUMS, _means(sums.reshape(len(counts), -1), counts))
    if not entries:
        raise FormatError("it has no .in_sum2 tensors")
    names = model.fields.texts("imatrix.datasets", ())
    return Imatrix(
        path=path, entries=entries, dataset=names[0] if names else "",
        n_chunk=model.fields.integer("imatrix.chunk_count", 0), counts=all_counts,
    )  # fmt: skip


def _means(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n_expert, n_column) -> (n_expert * n_column,); ones for an expert that was never chosen."""
    with np.errstate(over="ignore"):  # what is not finite is an error later
        means: NDArray[np.float32] = np.divide(
            sums, counts[:, None], out=np.ones_like(sums), where=counts[:, None] > 0
        ).ravel()
    return means


def _checked(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means and sums of squares. Raises FormatError for what none can be: the quantizer aborts."""
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise FormatError(f"{name} has {values[wrong][0]} among its values, expected 0 or more")
    return values


def _values(tensor: Tensor) -> NDArray[np.float32]:
    if tensor.type.name != "F32":
        raise FormatError(f"{tensor.name} is {tensor.type.name}, expected F32")
    return np.fromfile(tensor.path, np.float32, tensor.n_element, offset=tensor.offset)


def _read_legacy(path: Path) -> Imatrix:
    entries, tail = read_legacy_entries(path)
    means = {e.name: e.values / np.float32(max(e.n_call, 1)) for e in entries}
    counts = {e.name: np.array([max(e.n_call, 0)], np.float32) for e in entries}
    n_chunk, dataset = 0, ""  # optional at the end of the file
    if len(tail) >= 8:
        n_chunk, length = struct.unpack_from("<ii", tail)
        if n_chunk < 0 or not 0 <= length <= len(tail) - 8:
            raise FormatError(f"it ends with {n_chunk} chunks of a text named in {length} bytes")
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
    n_entry = _count(raw, 0, 17, "entries")
    entries = []
    for _ in range(n_entry):
        length = _count(raw, pos, 1, "bytes of a name")
        name = raw[pos + 4 : pos + 4 + length].decode()
        pos += 4 + length
        (n_call,) = struct.unpack_from("<i", raw, pos)
        n_value = _count(raw, pos + 4, 4, f"values of {name}")
        values = np.frombuffer(raw, "<f4", n_value, pos + 8).copy()
        entries.append(LegacyEntry(name, n_call, _checked(name, values)))
        pos += 8 + 4 * n_value
    return entries, raw[pos:]


def _count(raw: bytes, pos: int, item_bytes: int, what: str) -> int:
    """A count that is stated at `pos`, of items of at least that size behind it."""
    (n,) = struct.unpack_from("<i", raw, pos)
    left = len(raw) - pos - 4
    if not 0 < n <= left // item_bytes:
        raise FormatError(f"says it has {n} {what}, {left} bytes are left")
    return int(n)
