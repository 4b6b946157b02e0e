"""Every kind of value is read as what it is, and refused where another one is needed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from ggprune.errors import FormatError
from ggprune.model.fields import Fields
from ggprune.model.metadata import Value, ValueType, array, scalar, string

NESTED = Value(ValueType.ARRAY, struct.pack("<IQ", 9, 1) + struct.pack("<IQI", 4, 1, 7))
FIELDS = Fields(
    Path("m.gguf"),
    {
        "whole": scalar(ValueType.UINT16, 40_000),
        "negative": scalar(ValueType.INT32, -3),
        "flag": scalar(ValueType.BOOL, True),
        "half": scalar(ValueType.FLOAT32, 0.5),
        "nan": scalar(ValueType.FLOAT32, float("nan")),
        "inf": scalar(ValueType.FLOAT64, float("inf")),
        "text": string("4"),
        "long": string("x" * 3_000_000),
        "numbers": array(ValueType.INT8, [1, -1]),
        "flags": array(ValueType.BOOL, [True, False]),
        "halves": array(ValueType.FLOAT32, [0.5]),
        "texts": array(ValueType.STRING, ["a", ""]),
        "nested": NESTED,
    },
)
ALL = frozenset(FIELDS.values)


@pytest.mark.parametrize(
    ("read", "right"),
    [
        (FIELDS.integer, {"whole": 40_000}),
        (FIELDS.number, {"whole": 40_000.0, "negative": -3.0, "half": 0.5}),
        (FIELDS.text, {"text": "4", "long": "x" * 3_000_000}),
        (FIELDS.integers, {"numbers": (1, -1), "flags": (True, False)}),
        (FIELDS.texts, {"texts": ("a", "")}),
    ],
)
def test_a_value_is_what_is_asked_for_or_an_error(
    read: Callable[[str], object], right: dict[str, object]
) -> None:
    assert {key: read(key) for key in right} == right
    for key in ALL - right.keys():
        with pytest.raises(FormatError, match=f"^m.gguf: {key} is .*, expected ") as caught:
            read(key)
        assert len(str(caught.value)) < 200


def test_errors_say_what_was_found_and_what_was_expected() -> None:
    for read, key, message in (
        (FIELDS.integer, "half", "half is 0.5, expected a whole number"),
        (FIELDS.integer, "text", "text is '4', expected a whole number"),
        (FIELDS.integer, "numbers", "numbers is an array of 2 x INT8, expected a whole number"),
        (FIELDS.integer, "negative", "negative is -3, expected 0 to 4294967295"),
        (FIELDS.number, "nan", "nan is nan, expected a finite number"),
        (FIELDS.integers, "nested", "nested is an array of 1 x ARRAY, expected an array of whole"),
        (FIELDS.texts, "text", "text is '4', expected an array of texts"),
    ):
        with pytest.raises(FormatError, match=f"^m.gguf: {message}"):
            read(key)


def test_limits_are_included() -> None:
    assert FIELDS.integer("whole", least=40_000, most=40_000) == 40_000
    assert FIELDS.integer("negative", least=-3) == -3
    for least, most in ((40_001, 50_000), (0, 39_999)):
        with pytest.raises(FormatError, match=f"whole is 40000, expected {least} to {most}"):
            FIELDS.integer("whole", least=least, most=most)


def test_what_is_missing_has_the_default_or_is_an_error() -> None:
    assert FIELDS.integer("none", -1) == -1  # limits are of what is stated
    assert (FIELDS.text("none", ""), FIELDS.texts("none", ())) == ("", ())
    with pytest.raises(FormatError, match=r"^m\.gguf: metadata has no none$"):
        FIELDS.integer("none")
    with pytest.raises(FormatError, match="expected a whole number"):
        FIELDS.integer("text", 7)  # a default is no answer to another kind
