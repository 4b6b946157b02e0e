"""A layer of what remains: made of halves of the original's, or one of them alone. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from ggprune.model.unit import Unit


@dataclass(frozen=True)
class NewLayer:
    """A layer of what remains: the attention of one layer, the FFN of the same or of a later one,
    or only one of them.

    Both are numbers of layers of the original model, None for what is not there.
    """

    attn: int | None
    ffn: int | None
    linear: bool = False  # a matrix has come in the place of the attention

    def half(self, unit: Unit) -> int | None:
        return self.ffn if unit is Unit.FFN else self.attn

    @property
    def is_whole(self) -> bool:
        """Is it a layer of the original?"""
        return self.attn == self.ffn and not self.linear

    @property
    def missing(self) -> Unit | None:
        """The half that it does not have."""
        return Unit.ATTN if self.attn is None else Unit.FFN if self.ffn is None else None

    @property
    def first(self) -> int:
        """The layer whose attention it has, or whose FFN where it has no attention."""
        return self.attn if self.attn is not None else _present(self.ffn)

    @property
    def last(self) -> int:
        """The layer whose FFN it has, or whose attention where it has no FFN."""
        return self.ffn if self.ffn is not None else _present(self.attn)

    def __str__(self) -> str:
        if self.is_whole:
            return str(self.attn)
        attn, ffn = f"{self.attn}a{'=linear' * self.linear}", f"{self.ffn}f"
        return ffn if self.attn is None else attn if self.ffn is None else f"{attn}+{ffn}"

    def to_json(self) -> int | str:
        return self.first if self.is_whole else str(self)


def _present(layer: int | None) -> int:
    assert layer is not None  # a layer has one half at least
    return layer


def whole(*layers: int) -> tuple[NewLayer, ...]:
    """Layers that stay as they are."""
    return tuple(NewLayer(n, n) for n in layers)
