"""Text from files that would steer a terminal, forge a line or fill a screen."""

from __future__ import annotations

import pytest

from ggprune.files.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tiny 0.5B (\u00fc\u4e2d\u0394\u2588\u3000\u00a0)",) * 2,
        ("a\nlayers 99", "a\\nlayers 99"),
        ("a\r\tb\0", "a\\r\\tb\\x00"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),  # the same sequence in one byte
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),  # turns the direction
        ("a\u200bb\u2028c\ufeff", "a\\u200bb\\u2028c\\ufeff"),
        ("caf\udce9.gguf", "caf\\xe9.gguf"),  # a byte that is no UTF-8
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),  # letters that nobody sees
        ("C:\\models", "C:\\models"),
    ],
)
def test_characters_stand_for_themselves(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_what_is_kept() -> None:
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_the_middle_of_what_is_long_is_left_out() -> None:
    shown = printable("begin" + 3_000_000 * "\x1b" + "end", 100)
    assert len(shown) == 100
    assert shown.startswith("begin\\x1b")
    assert shown.endswith("end")
    assert " ... " in shown
    assert printable("x" * 100, 100) == "x" * 100
    assert printable("x" * 5000, None) == "x" * 5000
