"""What leaves a model: whole layers, the attention or the FFN of layers, or some of their experts.

Data only. Whether a model can do without them, and what follows, is for `arch` to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from ggprune.errors import ArchitectureError
from ggprune.model.layers import format_layers


class Unit(str, Enum):
    """What can leave, of one layer."""

    LAYER = "layer"
    ATTN = "attn"  # the first half: attention, or what stands in for it
    FFN = "ffn"  # the second half
    EXPERTS = "experts"  # of the FFN


# Behind a layer's number: 20 (all of it), 20a, 20f, 20e3+5 (the experts 3 and 5).
SUFFIXES = {Unit.LAYER: "", Unit.ATTN: "a", Unit.FFN: "f", Unit.EXPERTS: "e"}
_PIECE = re.compile(r"(?P<layer>\d{1,9})(?:(?P<half>[af])|e(?P<experts>\d{1,9}(?:\+\d{1,9})*))?")


@dataclass(frozen=True, order=True)
class Piece:
    """What leaves of one layer."""

    layer: int
    unit: Unit = Unit.LAYER
    experts: tuple[int, ...] = ()  # ascending; of Unit.EXPERTS alone

    def __str__(self) -> str:
        return f"{self.layer}{SUFFIXES[self.unit]}{'+'.join(map(str, self.experts))}"


@dataclass(frozen=True, order=True)
class Cut:
    """A set of pieces, ascending. Its layers are 0-based layers of the original model."""

    pieces: tuple[Piece, ...] = ()

    @staticmethod
    def of(layers: Iterable[int], unit: Unit = Unit.LAYER) -> Cut:
        """Whole layers, or the same half of each. A layer that is named twice counts once."""
        return Cut(tuple(Piece(layer, unit) for layer in sorted(set(layers))))

    def __str__(self) -> str:
        """`3,5-7,20a`: whole layers in the shortest notation, then parts of layers."""
        whole = format_layers(piece.layer for piece in self if piece.unit is Unit.LAYER)
        parts = [str(piece) for piece in self if piece.unit is not Unit.LAYER]
        return ",".join([*([whole] if whole else []), *parts])

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self.pieces)

    def __or__(self, other: Cut) -> Cut:
        return Cut(tuple(sorted({*self.pieces, *other.pieces})))

    def __sub__(self, other: Cut) -> Cut:
        return Cut(tuple(piece for piece in self.pieces if piece not in other.pieces))

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that lose something, ascending."""
        return tuple(sorted({piece.layer for piece in self.pieces}))

    @property
    def whole_layers(self) -> tuple[int, ...]:
        """The layers, where whole layers are all that leaves: nothing else can be carried out.

        Raises ArchitectureError otherwise.
        """
        other = next((piece for piece in self.pieces if piece.unit is not Unit.LAYER), None)
        if other is not None:
            raise ArchitectureError(f"{other}: only whole layers can be dropped")
        return self.layers

    def to_json(self) -> list[int | str]:
        """Whole layers are plain numbers: [20, "21a", "22e3+5"]."""
        return [p.layer if p.unit is Unit.LAYER else str(p) for p in self.pieces]

    @staticmethod
    def from_json(document: list[int | str]) -> Cut:
        """Raises ValueError for what is no list of layers and parts of them."""
        if not isinstance(document, list):
            raise ValueError(f"{document!r} is not a list of layers")
        return parse_cut(document)


def parse_cut(items: Iterable[object]) -> Cut:
    """What `Cut.to_json` made. Raises ValueError for anything else."""
    return Cut(tuple(sorted({_parse_piece(item) for item in items})))


def _parse_piece(item: object) -> Piece:
    if isinstance(item, bool) or not isinstance(item, int | str):
        raise ValueError(f"{item!r} is not a layer")
    match = _PIECE.fullmatch(str(item))
    if match is None or (isinstance(item, str) and item.isdecimal()):
        raise ValueError(f"{item!r} is not a layer or a part of one")
    layer, half, experts = int(match["layer"]), match["half"], match["experts"]
    if experts is not None:
        return Piece(layer, Unit.EXPERTS, tuple(sorted({int(n) for n in experts.split("+")})))
    return Piece(layer, {None: Unit.LAYER, "a": Unit.ATTN, "f": Unit.FFN}[half])
