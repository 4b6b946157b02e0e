"""What leaves a model: whole layers, the attention or the FFN of layers, or some of their experts.

A model is a sequence of units: the attention and the FFN of layer 0, those of layer 1, and so on.
Data only. Whether a model can do without them, and what follows, is for `arch` to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ggprune.errors import ArchitectureError, UsageError
from ggprune.model.layers import format_layers, resolve_layer, runs_of
from ggprune.model.newlayer import NewLayer
from ggprune.model.unit import HALVES, SUFFIXES, Unit

LINEAR = "=linear"  # behind an attention
_ITEM = re.compile(r"(-?[0-9]{1,9})([af]?)(?:-(-?[0-9]{1,9})([af]?))?")
_EXPERTS = re.compile(r"(-?[0-9]{1,9})e([0-9]{1,9}(?:\+[0-9]{1,9})*)")
_PIECE = re.compile(
    r"(?P<layer>\d{1,9})(?:a(?P<linear>=linear)|(?P<half>[af])|e(?P<experts>\d{1,9}(?:\+\d{1,9})*))?"
)


@dataclass(frozen=True, order=True)
class Piece:
    """What leaves of one layer."""

    layer: int
    unit: Unit = Unit.LAYER
    experts: tuple[int, ...] = ()  # ascending; of Unit.EXPERTS alone
    linear: bool = False  # of Unit.ATTN: a fitted matrix takes its place

    def __str__(self) -> str:
        replaced = LINEAR if self.linear else ""
        return f"{self.layer}{SUFFIXES[self.unit]}{'+'.join(map(str, self.experts))}{replaced}"


@dataclass(frozen=True, order=True)
class Cut:
    """A set of pieces, ascending. Its layers are 0-based layers of the original model."""

    pieces: tuple[Piece, ...] = ()

    @staticmethod
    def of(layers: Iterable[int], unit: Unit = Unit.LAYER) -> Cut:
        """Whole layers, or the same half of each. A layer that is named twice counts once."""
        return Cut(tuple(Piece(layer, unit) for layer in sorted(set(layers))))

    @staticmethod
    def of_units(numbers: Iterable[int]) -> Cut:
        """Units by their numbers: 2n is the attention of layer n, 2n + 1 its FFN."""
        units = set(numbers)
        layers = {n // 2 for n in units}
        whole = {n for n in layers if {2 * n, 2 * n + 1} <= units}
        halves = {Piece(n // 2, HALVES[n % 2]) for n in units if n // 2 not in whole}
        return Cut(tuple(sorted({*halves, *map(Piece, whole)})))

    @staticmethod
    def of_experts(experts: Mapping[int, Iterable[int]]) -> Cut:
        """Experts by layer."""
        sets = {layer: tuple(sorted(set(found))) for layer, found in experts.items()}
        return Cut(tuple(Piece(n, Unit.EXPERTS, sets[n]) for n in sorted(sets) if sets[n]))

    @staticmethod
    def of_linear(layers: Iterable[int]) -> Cut:
        """Attentions in whose place a matrix comes."""
        return Cut(tuple(Piece(n, Unit.ATTN, linear=True) for n in sorted(set(layers))))

    @property
    def units(self) -> tuple[int, ...]:
        """Numbers of the units, ascending; experts are none, nor what becomes a matrix."""
        numbers = {
            Unit.LAYER: (0, 1), Unit.ATTN: (0,), Unit.FFN: (1,), Unit.EXPERTS: (),
        }  # fmt: skip
        gone = (p for p in self if not p.linear)
        return tuple(sorted({2 * p.layer + half for p in gone for half in numbers[p.unit]}))

    @property
    def linear(self) -> tuple[int, ...]:
        """Layers whose attention becomes a matrix: no unit of them leaves for that."""
        return tuple(sorted({piece.layer for piece in self if piece.linear}))

    @property
    def experts(self) -> dict[int, tuple[int, ...]]:
        """The experts that leave, by the layer whose FFN they are part of."""
        found: dict[int, set[int]] = {}
        for piece in self:
            if piece.unit is Unit.EXPERTS:
                found.setdefault(piece.layer, set()).update(piece.experts)
        return {layer: tuple(sorted(experts)) for layer, experts in found.items()}

    @property
    def without_experts(self) -> Cut:
        return Cut(tuple(piece for piece in self if piece.unit is not Unit.EXPERTS))

    @property
    def tidy(self) -> Cut:
        """The same in one way of saying it: an attention and an FFN may be a layer, and experts of
        an FFN that leaves go with it."""
        gone = frozenset(self.units)
        left = {n: found for n, found in self.experts.items() if 2 * n + 1 not in gone}
        linear = [n for n in self.linear if 2 * n not in gone]
        return Cut.of_units(gone) | Cut.of_experts(left) | Cut.of_linear(linear)

    @property
    def depth(self) -> int:
        """By how many layers a model is shallower without it: a run of units takes with it as many
        as it has pairs."""
        return sum((last - first + 1) // 2 for first, last in runs_of(self.units))

    @property
    def count(self) -> int:
        """How many layers leave, or units where some of them are not in pairs."""
        return self.depth if 2 * self.depth == len(self.units) else len(self.units)

    @property
    def is_whole(self) -> bool:
        """Are whole layers all that leaves, and nothing is replaced?"""
        return all(piece.unit is Unit.LAYER for piece in self)

    def remaining(self, n_layer: int) -> tuple[NewLayer, ...]:
        """The layers that a model of that depth has afterwards.

        An attention and an FFN that come behind each other are one; what is left over is alone.
        """
        gone, linear = frozenset(self.units), frozenset(self.linear)
        layers: list[NewLayer] = []
        attn: int | None = None
        for n in (n for n in range(2 * n_layer) if n not in gone):
            if n % 2:
                layers.append(NewLayer(attn, n // 2, attn in linear))
                attn = None
                continue
            if attn is not None:
                layers.append(NewLayer(attn, None, attn in linear))
            attn = n // 2
        last = [NewLayer(attn, None, attn in linear)] if attn is not None else []
        return (*layers, *last)

    def __str__(self) -> str:
        """`3,5-7,11f-12a,20a,22e3+5`, which `parse_units` reads."""
        others = [str(piece) for piece in self if piece.unit is Unit.EXPERTS or piece.linear]
        return ",".join([*map(_format_run, runs_of(self.units)), *others])

    @property
    def brief(self) -> str:
        """The same for people: experts are only counted."""
        others, counts = self.without_experts, [len(found) for found in self.experts.values()]
        if not counts:
            return str(self)
        n = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        experts = f"{n} experts of each of {len(counts)} layers"
        return f"{others} and {experts}" if len(others) else experts

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


def gone_of(layers: Sequence[NewLayer], n_layer: int) -> Cut:
    """What leaves a model of that depth whose layers are made so afterwards."""
    kept = {
        2 * number + i
        for layer in layers
        for i, half in enumerate(HALVES)
        if (number := layer.half(half)) is not None
    }
    linear = [layer.first for layer in layers if layer.linear]
    return Cut.of_units(set(range(2 * n_layer)) - kept) | Cut.of_linear(linear)


def parse_units(text: str, n_layer: int) -> Cut:
    """What a user writes: `20` and `20-22` are layers, `20a` an attention, `20f` an FFN, `20f-23a`
    all from the one to the other, `22e3+5` the experts 3 and 5, `20a=linear` a matrix in the place
    of an attention; -1 is the last layer.

    Raises UsageError for anything that is not of the model, or is named twice.
    """
    items = [item.strip() for item in text.split(",")]
    found = {item: _EXPERTS.fullmatch(item) for item in items}
    experts = [
        (resolve_layer(match[1], n_layer), tuple(map(int, match[2].split("+"))))
        for match in map(found.__getitem__, items)
        if match is not None
    ]
    layers = [layer for layer, _ in experts]
    replaced = [item for item in items if item.endswith(LINEAR)]
    linear = [n for item in replaced for n in _parse_linear(item, n_layer)]
    plain = [item for item in items if not found[item] and item not in replaced]
    units = [n for item in plain for n in _parse_item(item, n_layer)]
    named = [*(2 * n + 1 for n in layers), *(2 * n for n in linear), *units]
    twice = sorted({n for n in named if named.count(n) > 1})
    if twice:
        raise UsageError(f"layer {twice[0] // 2} is named twice in '{text}'")
    for layer, numbers in experts:
        if len(set(numbers)) != len(numbers):
            raise UsageError(f"an expert of layer {layer} is named twice in '{text}'")
    return Cut.of_units(units) | Cut.of_experts(dict(experts)) | Cut.of_linear(linear)


def _parse_linear(item: str, n_layer: int) -> list[int]:
    """The layer of `20a=linear`."""
    units = _parse_item(item.removesuffix(LINEAR), n_layer)
    if len(units) > 1 or units[0] % 2:
        raise UsageError(f"'{item}': a matrix comes in the place of one attention, as 20a{LINEAR}")
    return [units[0] // 2]


def _parse_item(item: str, n_layer: int) -> range:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise UsageError(
            f"'{item}' is not a layer number: write layers like 20,21 or 20-22 or -1, an attention "
            "as 20a, an FFN as 20f, experts as 20e3+5"
        )
    first = resolve_layer(match[1], n_layer)
    last = resolve_layer(match[3], n_layer) if match[3] is not None else first
    end_half = match[4] if match[3] is not None else match[2]
    start, end = 2 * first + (match[2] == "f"), 2 * last + (end_half != "a")
    if end < start:
        raise UsageError(f"'{item}' runs backwards: it means layers {first} to {last}")
    return range(start, end + 1)


def _format_run(run: tuple[int, int]) -> str:
    """A run of units: of whole layers where it begins and ends with one."""
    (first, starts), (last, ends) = (divmod(n, 2) for n in run)
    if run[0] == run[1]:
        return f"{first}{'af'[starts]}"
    if not starts and ends:
        return format_layers(range(first, last + 1))
    return f"{first}{'af'[starts]}-{last}{'af'[ends]}"


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
    if match["linear"] is not None:
        return Piece(layer, Unit.ATTN, linear=True)
    if experts is not None:
        return Piece(layer, Unit.EXPERTS, tuple(sorted({int(n) for n in experts.split("+")})))
    return Piece(layer, {None: Unit.LAYER, "a": Unit.ATTN, "f": Unit.FFN}[half])
