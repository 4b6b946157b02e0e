"""One codec for all documents: what is written can be read, and what is not one says why."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from ggprune.errors import DataError
from ggprune.files.documents import (
    INLINE,
    LEFT_OUT,
    DocumentError,
    Key,
    decode,
    decode_fields,
    encode,
    encode_fields,
    parse_json,
    read_document,
    to_text,
    written,
)
from ggprune.files.keys import entries_of


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Span:
    """A class with a document of its own kind."""

    first: int
    last: int

    def to_json(self) -> str:
        return f"{self.first}-{self.last}"

    @classmethod
    def from_json(cls, document: object) -> Span:
        first, last = str(document).split("-")
        return cls(int(first), int(last))


@dataclass(frozen=True)
class Size:
    n_byte: int
    n_row: Annotated[int, "rows of it"] = 0


@dataclass(frozen=True, kw_only=True)
class Everything:
    path: Annotated[Path, Key(name="model.path"), "where it is"]
    name: Annotated[str, Key(name="model.name")]
    colour: Colour
    share: float
    pair: tuple[float, int]
    names: tuple[str, ...]
    spans: tuple[Span, ...]
    size: Annotated[Size, INLINE]
    by_percent: dict[float, float]
    maybe: Size | None
    either: int | str
    flag: Annotated[
        bool | None,
        Key(write=lambda flag: -1 if flag is None else int(flag), read={-1: None, 0: False}.get),
    ]
    stride: Annotated[int | None, Key(optional=True)] = None
    secret: Annotated[int, LEFT_OUT] = 7
    rows: list[int] = field(default_factory=list)

    @property
    @written("n_name", before="names")
    def count(self) -> Annotated[int, "how many names"]:
        return len(self.names)

    @property
    @written()
    def is_red(self) -> bool:
        return self.colour is Colour.RED


@dataclass(frozen=True)
class Larger(Size):
    """Has the keys of what it is made from first."""

    depth: int = 1

    @property
    @written(before="depth")
    def area(self) -> int:
        return self.n_byte * self.n_row


@dataclass(frozen=True)
class Table:
    rows: Annotated[NDArray[np.float64], Key(write=lambda rows: np.round(rows, 2))]
    peak: float


ALL = Everything(
    path=Path("a/b.gguf"), name="b", colour=Colour.BLUE, share=0.5, pair=(1.5, 2),
    names=("x", "ü"), spans=(Span(1, 2),), size=Size(3, 4), by_percent={99.9: 1.0, 50.0: 2.0},
    maybe=Size(5), either="six", flag=False, rows=[7],
)  # fmt: skip
DOCUMENT = {
    "model": {"path": "a/b.gguf", "name": "b"}, "colour": "blue", "share": 0.5, "pair": [1.5, 2],
    "n_name": 2, "names": ["x", "ü"], "spans": ["1-2"], "n_byte": 3, "n_row": 4,
    "by_percent": {"99.9": 1.0, "50": 2.0}, "maybe": {"n_byte": 5, "n_row": 0}, "either": "six",
    "flag": 0, "rows": [7], "is_red": False,
}  # fmt: skip


def test_documents_have_the_fields_in_their_order() -> None:
    assert json.dumps(encode(ALL)) == json.dumps(DOCUMENT)
    assert to_text(Size(1)) == '{\n  "n_byte": 1,\n  "n_row": 0\n}\n'


def test_what_is_written_can_be_read() -> None:
    assert decode(Everything, json.loads(to_text(ALL))) == ALL
    other = replace(ALL, maybe=None, either=6, flag=None, stride=8)
    assert encode(other) == {**DOCUMENT, "maybe": None, "either": 6, "flag": -1, "stride": 8}
    assert decode(Everything, encode(other)) == other


def test_numbers_without_a_value_are_null() -> None:
    assert encode((math.nan, math.inf, -math.inf, 1.0)) == [None, None, None, 1.0]
    assert math.isnan(decode(Everything, {**DOCUMENT, "share": None}).share)


def test_arrays() -> None:
    table = Table(np.array([[0.123, math.nan], [1, 2]]), np.float64(math.inf))
    document = encode(table)
    assert document == {"rows": [[0.12, None], [1.0, 2.0]], "peak": None}
    read = decode(Table, document).rows
    assert read.dtype == np.float64
    np.testing.assert_array_equal(read, np.round(table.rows, 2))
    with pytest.raises(DocumentError, match="rows: "):
        decode(Table, {"rows": [[1], [2, 3]]})


def test_hooks_may_use_the_fields() -> None:
    assert encode(Span(1, 2)) == "1-2"
    assert encode_fields(Span(1, 2)) == {"first": 1, "last": 2}
    assert decode_fields(Span, {"first": 1, "last": 2}) == decode(Span, "1-2")


def test_earlier_documents_have_defaults() -> None:
    document = {name: item for name, item in DOCUMENT.items() if name not in ("n_name", "rows")}
    assert decode(Everything, document) == replace(ALL, rows=[])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": "much"}, 'share: expected a number, found "much"'),
        ({"share": True}, "share: expected a number, found true"),
        ({"names": ["x", 1]}, r"names\[1\]: expected a string, found 1"),
        ({"names": "x"}, 'names: expected a list, found "x"'),
        ({"pair": [1, 2, 3]}, "pair: expected 2 items, found 3"),
        ({"pair": [1, 2.0]}, r"pair\[1\]: expected a whole number, found 2.0"),
        ({"colour": "green"}, 'colour: expected one of red, blue, found "green"'),
        ({"colour": []}, "colour: expected one of red, blue, found a list"),
        ({"spans": ["1"]}, r"spans\[0\]: not enough values"),
        ({"maybe": 1}, "maybe: expected an object, found 1"),
        ({"maybe": {"n_row": 1}}, "maybe.n_byte: is missing"),
        ({"maybe": {"n_byte": 1, "x": 1}}, "maybe.x: is not known"),
        ({"model": {"path": "a"}}, "model.name: is missing"),
        ({"model": {"path": 1, "name": "b"}}, "model.path: expected a string"),
        ({"model": {"path": "a", "name": "b", "x": 1}}, "model.x: is not known to this version"),
        ({"model": "a"}, "model: is not known|model.path: is missing"),
        ({"by_percent": {"many": 1}}, "by_percent: could not convert"),
        ({"by_percent": {"1": "x"}}, "by_percent.1: expected a number"),
        ({"either": 1.5}, "either: expected a string, found 1.5"),
        ({"n_byte": None}, "n_byte: expected a whole number, found null"),
        ({"more": 1}, "more: is not known to this version"),
    ],
)
def test_what_does_not_fit_says_where_and_why(change: dict[str, object], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        decode(Everything, {**DOCUMENT, **change})


@pytest.mark.parametrize("name", ["colour", "n_byte", "either"])
def test_what_is_missing_is_named(name: str) -> None:
    document = {key: item for key, item in DOCUMENT.items() if key != name}
    with pytest.raises(DocumentError, match=f"^{name}: is missing"):
        decode(Everything, document)


def test_values_without_a_place_are_refused() -> None:
    with pytest.raises(TypeError, match="set has no place in a document"):
        encode({1, 2})


def test_keys_are_inherited() -> None:
    larger = Larger(2, 3, 4)
    assert list(encode_fields(larger).items()) == [
        ("n_byte", 2), ("n_row", 3), ("area", 6), ("depth", 4)
    ]  # fmt: skip
    assert decode(Larger, encode(larger)) == larger
    assert entries_of(Larger)[1].description == "rows of it"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "size.json"
    path.write_text(to_text(Size(1, 2)), "utf-8")
    assert read_document(path, Size, "a size") == Size(1, 2)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.json", Size, "a size")
    for text, message in (
        ("{", "not a size: Expecting property name"),
        ("{}", "not a size: n_byte: is missing$"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(DataError, match=message):
            read_document(path, Size, "a size")


def test_entries_describe_the_keys() -> None:
    about = {".".join(entry.place): entry.description for entry in entries_of(Everything)}
    assert about["model.path"] == "where it is"
    assert about["n_name"] == "how many names"
    assert "secret" not in about


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1e999]", "1e999 is too large for a number"),
        ("[-1e999]", "-1e999 is too large for a number"),
        ("[NaN]", "NaN is not a number"),
        ("[Infinity]", "Infinity is not a number"),
        ("[" * 200_000, "nested too deep"),
        ('["\\ud800"]', "half of a surrogate pair"),
        ('["\\udcff"]', "half of a surrogate pair"),
        ("[" + "9" * 5000 + "]", "limit"),
    ],
)
def test_json_without_what_cannot_be_used(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_as_it_should_be() -> None:
    assert parse_json('{"a": [1, 2.5, -1e300, null, true, "\\ud83d\\ude00"]}') == {
        "a": [1, 2.5, -1e300, None, True, "\U0001f600"]
    }


@dataclass(frozen=True)
class Named:
    path: Path
    share: float = 0.0
    grid: NDArray[np.float64] | None = None


def test_a_name_that_is_not_utf_8_survives(tmp_path: Path) -> None:
    named = Named(Path("caf\udce9.gguf"))  # as the system gives such a name
    text, path = to_text(named), tmp_path / "named.json"
    assert "caf\\udce9.gguf" in text
    path.write_bytes(text.encode("utf-8"))
    assert read_document(path, Named, "named").path == named.path


@pytest.mark.parametrize(
    "change", [{"share": 10**400}, {"grid": 3.0}, {"grid": [[1], [1, 2]]}, {"grid": [10**400]}]
)
def test_numbers_that_do_not_fit_are_errors(change: dict[str, object]) -> None:
    with pytest.raises(DocumentError):
        decode(Named, {"path": "a", "share": 1.5, **change})
