from __future__ import annotations

import pytest

from ggprune.errors import UsageError
from ggprune.model.layers import format_layers, parse_layers, runs_of


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("3", (3,)),
        ("7,3", (3, 7)),
        ("3-5", (3, 4, 5)),
        ("-1", (11,)),
        ("-3--1", (9, 10, 11)),
        ("10--1,0", (0, 10, 11)),
        (" 1 , 2 ", (1, 2)),
        ("4-4", (4,)),
    ],
)
def test_layers_are_parsed(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text, 12) == layers


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a layer number"),
        ("x", "'x' is not a layer number"),
        ("1,,2", "not a layer number"),
        ("1.5", "not a layer number"),
        ("12", "no layer 12: the model has layers 0 to 11"),
        ("-13", "no layer -13"),
        ("3-99", "no layer 99"),
        ("5-3", "backwards"),
        ("3,2-4", "layer 3 is named twice"),
        ("0x3", "not a layer number"),
        ("²", "not a layer number"),
    ],
)
def test_what_is_not_a_layer_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_layers(text, 12)


def test_runs() -> None:
    assert runs_of((6, 3, 5)) == [(3, 3), (5, 6)]
    assert runs_of(()) == []


@pytest.mark.parametrize("layers", [(), (0,), (3, 5, 6, 7), (0, 1, 11)])
def test_the_short_notation_can_be_read_again(layers: tuple[int, ...]) -> None:
    text = format_layers(layers)
    assert (parse_layers(text, 12) if text else ()) == layers
    assert format_layers((3, 5, 6, 7)) == "3,5-7"
