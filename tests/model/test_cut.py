"""What leaves a model, as a value."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ggprune.errors import ArchitectureError, UsageError
from ggprune.model.cut import Cut, Piece, gone_of, parse_cut, parse_units
from ggprune.model.newlayer import NewLayer, whole
from ggprune.model.unit import Unit

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
    assert str(Cut.of([2]) | Cut.of([3], Unit.ATTN)) == "2a-3a"
    assert str(Cut.of([3, 5, 6, 7])) == "3,5-7"


def test_experts_are_named_and_tidied() -> None:
    cut = parse_units("3,5e7+2,-1e0", 10)
    assert cut.experts == {5: (2, 7), 9: (0,)}
    assert str(cut) == "3,5e2+7,9e0"
    assert parse_units(str(cut), 10) == cut == parse_cut(cut.to_json())
    assert cut.units == (6, 7)
    assert (cut | parse_units("5f", 10)).tidy == parse_units("3,5f,9e0", 10)  # they go with it
    assert (Cut.of([5], Unit.ATTN) | cut).tidy.experts == cut.experts
    assert cut.without_experts == Cut.of([3])
    assert not cut.is_whole
    assert cut.brief == "3 and 1 to 2 experts of each of 2 layers"
    assert Cut.of_experts({0: (1, 2), 4: (3, 0)}).brief == "2 experts of each of 2 layers"
    assert Cut.of([3]).brief == "3"
    for text, said in (("3e1+1", "an expert of layer 3 is named twice"),
                       ("3e1,3e2", "layer 3 is named twice"), ("3f,3e2", "layer 3 is named twice"),
                       ("3e", "is not a layer number"), ("11e1", "no layer 11")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            parse_units(text, 10)


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


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("3", (6, 7)), ("3-4,-1", (6, 7, 8, 9, 18, 19)), ("3f-4a", (7, 8)), ("3a", (6,)),
        ("2f,3a", (5, 6)), ("3f-5a", (7, 8, 9, 10)), ("3a-4f", (6, 7, 8, 9)), ("-2f--1a", (17, 18)),
    ],
)  # fmt: skip
def test_units_as_users_write_them(text: str, units: tuple[int, ...]) -> None:
    cut = parse_units(text, 10)
    assert cut.units == units
    assert parse_units(str(cut), 10) == cut


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3x", "'3x' is not a layer number"), ("3fa", "is not a layer number"),
        ("4a-3f", "runs backwards"), ("3,3f", "layer 3 is named twice"), ("10a", "no layer 10"),
        ("3f-3a", "runs backwards"), ("", "is not a layer number"), ("a", "is not a layer number"),
    ],
)  # fmt: skip
def test_what_is_no_unit_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_units(text, 10)


def test_what_remains_of_a_run_of_units() -> None:
    assert parse_units("1f-2a", 4).remaining(4) == (
        NewLayer(0, 0), NewLayer(1, 2), NewLayer(3, 3),
    )  # fmt: skip
    assert parse_units("0f-2a,3", 5).remaining(5) == (NewLayer(0, 2), NewLayer(4, 4))
    assert Cut.of([1]).remaining(3) == (NewLayer(0, 0), NewLayer(2, 2))
    assert str(NewLayer(1, 2)) == "1a+2f"
    assert (parse_units("1f-2a,3", 5).depth, Cut.of([1, 2]).depth) == (2, 2)


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("1a", (NewLayer(0, 0), NewLayer(None, 1), NewLayer(2, 2), NewLayer(3, 3))),
        ("1f", (NewLayer(0, 0), NewLayer(1, None), NewLayer(2, 2), NewLayer(3, 3))),
        ("3f", (*whole(0, 1, 2), NewLayer(3, None))),
        ("0a-1a", (NewLayer(None, 1), NewLayer(2, 2), NewLayer(3, 3))),
        ("1f-2f", (NewLayer(0, 0), NewLayer(1, None), NewLayer(3, 3))),
        ("0a,3f", (NewLayer(None, 0), NewLayer(1, 1), NewLayer(2, 2), NewLayer(3, None))),
        ("0f,2a", (NewLayer(0, None), NewLayer(1, 1), NewLayer(None, 2), NewLayer(3, 3))),
    ],
)  # fmt: skip
def test_halves_that_have_no_other_are_alone(text: str, layers: tuple[NewLayer, ...]) -> None:
    """No attention and FFN that come behind each other are."""
    cut = parse_units(text, 4)
    assert cut.remaining(4) == layers
    assert cut.depth == 4 - len(layers)
    assert gone_of(layers, 4) == cut


def test_a_layer_with_one_half() -> None:
    attn, ffn = NewLayer(3, None), NewLayer(None, 5)
    assert (str(attn), attn.to_json(), attn.missing) == ("3a", "3a", Unit.FFN)
    assert (str(ffn), ffn.to_json(), ffn.missing) == ("5f", "5f", Unit.ATTN)
    assert (attn.first, attn.last, ffn.first, ffn.last) == (3, 3, 5, 5)
    assert not attn.is_whole
    assert NewLayer(2, 2).missing is None


def test_a_matrix_in_the_place_of_an_attention() -> None:
    """No unit leaves for it, so that it pairs with an FFN as the attention did."""
    cut = parse_units("1,3a=linear,4f-5a", 9)
    assert (cut.linear, cut.units, str(cut)) == ((3,), (2, 3, 9, 10), "1,4f-5a,3a=linear")
    assert parse_units(str(cut), 9) == cut == parse_cut(cut.to_json()) == cut.tidy
    made = cut.remaining(9)[2]
    assert (made, str(made), made.is_whole) == (NewLayer(3, 3, linear=True), "3a=linear+3f", False)
    assert (cut.depth, gone_of(cut.remaining(9), 9)) == (2, cut)
    assert not cut.is_whole
    for text, said in (
        ("3a=linear,3a", "named twice"), ("3=linear", "of one attention"),
        ("3f=linear", "of one attention"), ("3a-4f=linear", "of one attention"),
        ("3a=cubic", "not a layer number"), ("9a=linear", "no layer 9"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            parse_units(text, 9)
