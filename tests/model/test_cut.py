"""What leaves a model, as a value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggprune.errors import ArchitectureError
from ggprune.model.cut import Cut, Piece, Unit, parse_cut

MIXED = Cut((Piece(3), Piece(20, Unit.ATTN), Piece(21, Unit.FFN), Piece(22, Unit.EXPERTS, (3, 5))))


def test_whole_layers_are_plain_numbers_in_json() -> None:
    cut = Cut.of([5, 2, 5])
    assert cut.layers == cut.whole_layers == (2, 5)
    assert json.dumps(cut.to_json()) == "[2, 5]"
    assert parse_cut([5, 2]) == cut


def test_parts_of_layers_are_named() -> None:
    assert MIXED.to_json() == [3, "20a", "21f", "22e3+5"]
    assert parse_cut(MIXED.to_json()) == MIXED
    assert MIXED.layers == (3, 20, 21, 22)
    assert str(MIXED) == "3,20a,21f,22e3+5"
    assert str(Cut.of([3, 5, 6, 7])) == "3,5-7"


def test_only_whole_layers_can_be_carried_out() -> None:
    with pytest.raises(ArchitectureError, match="20a: only whole layers can be dropped"):
        _ = MIXED.whole_layers
    assert Cut().whole_layers == ()


@pytest.mark.parametrize("item", ["", "a", "20x", "-1", "20e", "20e3+", True, None, 1.0, [2]])
def test_what_is_no_layer_is_refused(item: Any) -> None:
    with pytest.raises(ValueError, match="is not a layer"):
        parse_cut([item])


def test_cuts_are_sets() -> None:
    one, two = Cut.of([1, 2]), Cut.of([2, 3])
    assert one | two == Cut.of([1, 2, 3])
    assert one - two == Cut.of([1])
    assert sorted([two, one, Cut()]) == [Cut(), one, two]
    assert len({one, Cut.of([2, 1])}) == 1


def test_halves_of_one_layer_are_two_pieces() -> None:
    halves = Cut.of([4], Unit.ATTN) | Cut.of([4], Unit.FFN)
    assert (len(halves), halves.layers) == (2, (4,))
