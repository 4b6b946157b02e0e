"""Importance matrices that cannot be: refused when they are read, and soon."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from ggprune.errors import DataError
from ggprune.model.imatrix import read_imatrix
from tests.gguf_files import ARR, F32, STR, FakeTensor, build, kv, kv_array, kv_str, kv_u32

NAME = "blk.0.ffn_up.weight"
INF, NAN = float("inf"), float("nan")


def gguf(path: Path, sums: list[float], counts: list[float], *kvs: bytes) -> Path:
    tensors = [
        FakeTensor(NAME + part, struct.pack(f"<{len(x)}f", *x), (len(x),))
        for part, x in ((".in_sum2", sums), (".counts", counts))
    ]
    path.write_bytes(build([kv_str("general.type", "imatrix"), *kvs], tensors))
    return path


def entry(name: bytes, n_call: int, values: list[float]) -> bytes:
    head = struct.pack("<i", len(name)) + name + struct.pack("<ii", n_call, len(values))
    return head + struct.pack(f"<{len(values)}f", *values)


def test_sums_are_divided_by_their_counts(tmp_path: Path) -> None:
    path = gguf(
        tmp_path / "m", [2, 4, 9, 9, 3, 6], [2, 0, 3], kv_u32("imatrix.chunk_count", 5),
        kv_array("imatrix.datasets", STR, 1, struct.pack("<Q", 4) + b"wiki"),
    )  # fmt: skip
    read = read_imatrix(path)
    assert read.entries[NAME].tolist() == [1, 2, 1, 1, 1, 2]  # ones: an expert never chosen
    assert (read.n_chunk, read.dataset) == (5, "wiki")
    (tmp_path / "m.dat").write_bytes(struct.pack("<i", 1) + entry(NAME.encode(), 2, [2, 4]))
    assert read_imatrix(tmp_path / "m.dat").entries[NAME].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("sums", "counts", "found"),
    [
        ([1, -1], [1], r"\.in_sum2 has -1.0 among"),
        ([1, NAN], [1], r"\.in_sum2 has nan among"),
        ([1, INF], [1], r"\.in_sum2 has inf among"),
        ([1, 3e38], [0.5], r"\.in_sum2 has inf among"),
        ([1, 2], [NAN], r"\.counts has nan among"),
        ([1, 2], [-1], r"\.counts has -1.0 among"),
        ([1, 2, 3], [1, 1], r" has 3 sums, not as many for each of its counts"),
    ],
)
def test_values_that_no_matrix_has_name_the_tensor(
    tmp_path: Path, sums: list[float], counts: list[float], found: str
) -> None:
    with pytest.raises(DataError, match=rf"blk\.0\.ffn_up\.weight{found}"):
        read_imatrix(gguf(tmp_path / "m", sums, counts))


@pytest.mark.parametrize("value", [-1.0, NAN, INF])
def test_values_of_a_legacy_file_name_the_tensor(tmp_path: Path, value: float) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(struct.pack("<i", 1) + entry(NAME.encode(), 1, [1, value]))
    with pytest.raises(DataError, match=rf"blk\.0\.ffn_up\.weight has {value} among its values"):
        read_imatrix(path)


@pytest.mark.parametrize(
    "value",
    [
        kv("imatrix.chunk_count", F32, struct.pack("<f", INF)),
        kv_str("imatrix.chunk_count", "many"),
        kv("imatrix.chunk_count", ARR, struct.pack("<IQ", STR, 0)),
    ],
)
def test_a_number_of_chunks_is_a_whole_number(tmp_path: Path, value: bytes) -> None:
    with pytest.raises(DataError, match=r"imatrix\.chunk_count is .*, expected a whole number"):
        read_imatrix(gguf(tmp_path / "m", [1, 2], [1], value))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (struct.pack("<ii", 2**31 - 1, 0) + bytes(32), "2147483647 entries, 36 bytes are left"),
        (struct.pack("<i", 1) + bytes(36), "0 bytes of a name"),
        (struct.pack("<ii", 1, -12) + bytes(32), "-12 bytes of a name, 32 bytes are left"),
        (
            struct.pack("<ii1sii", 1, 1, b"a", 1, 1 << 30) + bytes(23),
            "1073741824 values of a, 23 bytes are left",
        ),
        (struct.pack("<i", 1) + entry(b"a", 1, [1.0]) + struct.pack("<ii", 3, 99), "99 bytes"),
    ],
)
def test_counts_are_compared_with_what_is_left_of_the_file(
    tmp_path: Path, data: bytes, found: str
) -> None:
    """A length of -12 leads back to itself: 2^31 entries were read for minutes."""
    path = tmp_path / "m.dat"
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(DataError, match=found):
        read_imatrix(path)
    assert time.monotonic() - start < 1
