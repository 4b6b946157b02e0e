"""Mutates any file: flipped bits, other numbers, parts cut out, put in or doubled."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.fuzz.hostile import integer_bytes

MARKS = (0, 1, 0x0A, 0x1B, 0x7F, 0x80, 0xFF)


def mutate_bytes(data: bytes, rng: Random, reach: int | None = None) -> bytes:
    """`reach`: only the first so many bytes."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        raw = raw or bytearray(1)
        rng.choice(_MUTATIONS)(raw, rng.randrange(min(len(raw), reach or len(raw))), rng)
    return bytes(raw)


def _flip(raw: bytearray, at: int, rng: Random) -> None:
    raw[at] ^= 1 << rng.randrange(8)


def _mark(raw: bytearray, at: int, rng: Random) -> None:
    raw[at] = rng.choice(MARKS)


def _cut_off(raw: bytearray, at: int, _: Random) -> None:
    del raw[at:]


def _cut_out(raw: bytearray, at: int, rng: Random) -> None:
    del raw[at : at + rng.choice((1, 4, 8, 32))]


def _put_in(raw: bytearray, at: int, rng: Random) -> None:
    raw[at:at] = rng.randbytes(rng.choice((1, 4, 8, 32)))


def _number(raw: bytearray, at: int, rng: Random) -> None:
    size = rng.choice((4, 8))
    raw[at : at + size] = integer_bytes(rng, size)


def _repeat(raw: bytearray, at: int, rng: Random) -> None:
    source = rng.randrange(len(raw))
    raw[at : at + 16] = raw[source : source + 16]


_MUTATIONS: tuple[Callable[[bytearray, int, Random], None], ...] = (
    _flip, _mark, _cut_off, _cut_out, _put_in, _number, _repeat,
)  # fmt: skip
