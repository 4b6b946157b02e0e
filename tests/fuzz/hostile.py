"""Values that break readers: numbers at the edges of their types, texts that are none, JSON."""

from __future__ import annotations

import struct
from random import Random

INTEGERS = (
    *range(14), 26, 31, 32, 33, 40, 47, 48, 62, 127, 128, 255, 256, 512, 513, 65535, 65536, 99_999,
    10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1,
    -1, -2, -5, -12, -16, -24, -32, -48, -128, -(2**31), -(2**63),
)  # fmt: skip
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 2.5, 1e-45, 1e30, -1e30, 3e38, float("inf"), float("-inf"),
    float("nan"),
)  # fmt: skip
TEXTS = (
    b"", b"\0", b"\xff\xfe", b"\r", b"a\nb", b"\x1b[31mred\x1b[0m", b"\x1b]0;title\x07",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc".encode(), b"\xed\xa0\x80", b"\xc2\x9b2J", b"{arch}", b"%s{0}",
    b"../../x", b"/etc/passwd", b"x" * 70, b"y" * 30_000, b"llama", b"wiki",
    b"blk.0.attn_q.weight", b"blk.-1.x", b"blk.00.x", b"blk.1.\xff", b"blk." + b"9" * 20 + b".x",
    b"blk." + b"9" * 5000 + b".x", b"enc.blk.0.x", b"dec.blk.0.x", b"dec.blk.3.attn_q.weight",
    b"direction.0", b"direction.007", b"direction." + b"7" * 20, b"direction." + b"7" * 5000,
    b'{"ggprune.dropped_layers": [1], "ggprune.source.fingerprint": "f"}', b"[]", b"{}", b"NaN",
)  # fmt: skip
JSON = (
    "null", "true", "false", "0", "-1", "1", "3", "8", "99", "1.5", "0.1", "-8", "1e999", "-1e999",
    "NaN", "Infinity", "-Infinity", str(2**24), str(2**31), str(2**63), str(10**30), "9" * 400,
    "9" * 5000, "1e400", '""', '"x"', '"a"', '"\\u0000"', '"\\u001b[31m"', '"\\ud800"', '"\\udcff"',
    '"\\ud83d\\ude00"', '"../../../etc/passwd"', '"/dev/null"', '"ggprune/../../x"',
    '"ggprune/calibration.txt"', '"ggprune/none.txt"', '"ggprune/\\u0000"', '"kld+"', '"angular"',
    '"angular+"', '"magnitude"', '"layer"', '"attn"', '"search"', "[]", "{}", "[[]]", "[1,2]",
    "[true]", "[1.0]", "[null]", '["a"]', '["1a"]', "[[1,2],[3]]", "[[0,1],[1,0]]", '[["",6]]',
    '[["",1e999]]', '[["enc.",1],["dec.",2]]', '{"drop":[1]}', '{"drop":null}', "[[[1]]]",
    "[" * 3000 + "]" * 3000, "[" * 200_000, '{"a":' * 3000 + "1" + "}" * 3000,
    '"' + "z" * 30_000 + '"',
)  # fmt: skip


def float_bytes(rng: Random) -> bytes:
    number: float = rng.choice(FLOATS)
    return struct.pack("<f", number)


def integer_bytes(rng: Random, size: int) -> bytes:
    """Little-endian; what is too large is cut."""
    number: int = rng.choice(INTEGERS) % (1 << 8 * size)
    return number.to_bytes(size, "little")
